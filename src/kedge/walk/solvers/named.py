"""Solvers by the short names that recipes and their users call them by: those whose steps take one evaluation each."""

from __future__ import annotations

from typing import Literal

from kedge.walk.solvers.adams_bashforth import AdamsBashforth
from kedge.walk.solvers.ddim import DDIM
from kedge.walk.solvers.ddpm import DDPM
from kedge.walk.solvers.deis import DEIS
from kedge.walk.solvers.dpm_solver_pp import DPMSolverPP
from kedge.walk.solvers.euler import Euler
from kedge.walk.solvers.sa_solver import SASolver
from kedge.walk.solvers.unipc import UniPC
from kedge.walk.state import Solver

SolverName = Literal["2m", "3m", "unipc", "deis", "ab", "sa", "ddim", "ddpm", "euler"]
NAMED: dict[SolverName, Solver] = {
    "2m": DPMSolverPP(2),
    "3m": DPMSolverPP(3),
    "unipc": UniPC(2),
    "deis": DEIS(3, "log_snr"),
    "ab": AdamsBashforth(2),
    "sa": SASolver(3, 4, 0.0),
    "ddim": DDIM(),
    "ddpm": DDPM(),
    "euler": Euler(),
}
