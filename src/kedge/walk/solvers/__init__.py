"""How a step is made. A file a solver."""

from kedge.walk.solvers.ddim import DDIM
from kedge.walk.solvers.ddpm import DDPM
from kedge.walk.solvers.dpm_solver_pp import DPMSolverPP
from kedge.walk.solvers.dpm_solver_v3 import DPMSolverV3
from kedge.walk.solvers.euler import Euler
from kedge.walk.solvers.evodiff import EVODiff
from kedge.walk.solvers.heun import Heun
from kedge.walk.solvers.sa_solver import Band, SASolver
from kedge.walk.solvers.statistics import Statistics
from kedge.walk.solvers.unified import Decision, Unified

__all__ = [
    "DDIM",
    "DDPM",
    "Band",
    "DPMSolverPP",
    "DPMSolverV3",
    "Decision",
    "EVODiff",
    "Euler",
    "Heun",
    "SASolver",
    "Statistics",
    "Unified",
]
