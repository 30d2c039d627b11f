"""Diffuser."""

from __future__ import annotations

from dataclasses import dataclass

from kedge.recipes.planning import (
    CriticName,
    DecayName,
    OptimiserName,
    PathName,
    Planning,
    Prediction,
    Scale,
    WeightingName,
)
from kedge.walk.solvers import SolverName


@dataclass(frozen=True)
class Diffuser(Planning):
    """States and actions denoised together by a temporal U-Net, pulled by the gradient of a value that hears the noise
    level, with the goal written into the last state.

    Janner et al., "Planning with diffusion for flexible behavior synthesis", ICML 2022. In the paper's mazes a plan
    holds every step (horizon 384 in the large one) and is walked in 256 steps of DDPM; these are options here, and the
    defaults are for a CPU: the same system on a plan of 32 points 15 steps apart.
    """

    path: PathName = "cosine"
    predict: Prediction = "clean"
    weighting: WeightingName = "clean"
    octaves: int = 0
    actions: bool = True
    normalise: Scale = "limits"
    goals: float = 0.5
    aim: bool = True
    optimiser: OptimiserName = "adamw"
    rate: float = 2e-4
    decay: DecayName = "constant"
    solver: SolverName = "ddpm"
    evaluations: int = 64
    rho: float = 0.0
    guidance: float = 0.1
    critic: CriticName = "mlp"
    candidates: int = 64
    support: float = 0.0
    keep: bool = False
    nearby: float = 0.0
    atlas: int = 0
    mults: tuple[int, ...] = (1, 4, 8)
    ahead: int = 15
