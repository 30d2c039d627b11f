"""Diffuser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kedge.recipes.planning import Planning


@dataclass(frozen=True)
class Diffuser(Planning):
    """States and actions denoised together by a temporal U-Net, pulled by the gradient of a value that hears the noise
    level, with the goal written into the last state.

    Janner et al., "Planning with diffusion for flexible behavior synthesis", ICML 2022. In the paper's mazes a plan
    holds every step (horizon 384 in the large one) and is walked in 256 steps of DDPM; these are options here, and the
    defaults are for a CPU: the same system on a plan of 32 points 15 steps apart.
    """

    path: Literal["trig", "vp", "cosine"] = "cosine"
    predict: Literal["trig", "eps", "clean", "velocity"] = "clean"
    weighting: Literal["polynomial", "head", "min-snr", "uniform", "eps", "clean"] = "clean"
    octaves: int = 0
    actions: bool = True
    normalise: Literal["gaussian", "limits"] = "limits"
    goals: float = 0.5
    aim: bool = True
    optimiser: Literal["muon", "adamw"] = "adamw"
    rate: float = 2e-4
    decay: Literal["linear", "cosine", "constant"] = "constant"
    solver: Literal["2m", "ddim", "ddpm"] = "ddpm"
    evaluations: int = 64
    rho: float = 0.0
    guidance: float = 0.1
    critic: Literal["mlp", "transformer", "none"] = "mlp"
    candidates: int = 64
    support: float = 0.0
    keep: bool = False
    nearby: float = 0.0
    atlas: int = 0
    mults: tuple[int, ...] = (1, 4, 8)
    ahead: int = 15
