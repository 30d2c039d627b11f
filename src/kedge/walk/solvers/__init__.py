"""How a step is made. A file a solver."""

from kedge.walk.solvers.adams_bashforth import AdamsBashforth
from kedge.walk.solvers.adaptive import Adaptive
from kedge.walk.solvers.ddim import DDIM
from kedge.walk.solvers.ddpm import DDPM
from kedge.walk.solvers.deis import DEIS
from kedge.walk.solvers.dpm_solver import DPMSolver
from kedge.walk.solvers.dpm_solver_pp import DPMSolverPP
from kedge.walk.solvers.dpm_solver_v3 import DPMSolverV3
from kedge.walk.solvers.euler import Euler
from kedge.walk.solvers.evodiff import EVODiff
from kedge.walk.solvers.free_sde import FreeSDE
from kedge.walk.solvers.heun import Heun
from kedge.walk.solvers.linear_multistep import LinearMultistep
from kedge.walk.solvers.mixed import Mixed
from kedge.walk.solvers.named import NAMED, SolverName
from kedge.walk.solvers.runge_kutta import RungeKutta
from kedge.walk.solvers.sa_solver import Band, SASolver
from kedge.walk.solvers.statistics import Statistics
from kedge.walk.solvers.unified import Decision, Unified
from kedge.walk.solvers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "NAMED",
    "AdamsBashforth",
    "Adaptive",
    "Band",
    "DPMSolver",
    "DPMSolverPP",
    "DPMSolverV3",
    "Decision",
    "EVODiff",
    "Euler",
    "FreeSDE",
    "Heun",
    "LinearMultistep",
    "Mixed",
    "RungeKutta",
    "SASolver",
    "SolverName",
    "Statistics",
    "UniPC",
    "Unified",
]
