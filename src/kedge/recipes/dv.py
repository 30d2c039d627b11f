"""DV: Diffusion Veteran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kedge.recipes.planning import Planning


@dataclass(frozen=True)
class DV(Planning):
    """Diffusion Veteran: a transformer on the variance-preserving path, 20 steps of DDIM, the best of 50 plans by a
    transformer critic, actions by a diffusion model of inverse dynamics, and a new plan each step.

    Lu et al., "What makes a good diffusion planner for decision making?", ICLR 2025. To the letter as it stands, which
    wants a GPU: a million steps of training, and 50 plans for every step of acting.
    """

    steps: int = 1_000_000
    batch: int = 128
    path: Literal["trig", "vp", "cosine"] = "vp"
    predict: Literal["trig", "eps", "clean", "velocity"] = "eps"
    weighting: Literal["polynomial", "head", "min-snr", "uniform", "eps", "clean"] = "eps"
    net: Literal["unet", "dit", "conv"] = "dit"
    width: int = 256
    depth: int = 2
    octaves: int = 0
    goals: float = 0.0
    aim: bool = False
    optimiser: Literal["muon", "adamw"] = "adamw"
    rate: float = 2e-4
    hold: float = 0.0
    decay: Literal["linear", "cosine", "constant"] = "cosine"
    solver: Literal["2m", "ddim", "ddpm"] = "ddim"
    evaluations: int = 20
    rho: float = 0.0
    critic: Literal["mlp", "transformer", "none"] = "transformer"
    critic_rate: float = 3e-4
    candidates: int = 50
    support: float = 0.0
    keep: bool = False
    nearby: float = 0.0
    atlas: int = 0
    follow: Literal["chase", "inverse", "inverse-diffusion"] = "inverse-diffusion"
    ahead: int = 15
    replan: int = 1
