"""How a step is made. A file a solver."""

from kedge.walk.solvers.ddim import DDIM
from kedge.walk.solvers.ddpm import DDPM
from kedge.walk.solvers.dpm_solver_pp import DPMSolverPP
from kedge.walk.solvers.euler import Euler
from kedge.walk.solvers.heun import Heun
from kedge.walk.solvers.mixed import Mixed
from kedge.walk.solvers.runge_kutta import RungeKutta

__all__ = ["DDIM", "DDPM", "DPMSolverPP", "Euler", "Heun", "Mixed", "RungeKutta"]
