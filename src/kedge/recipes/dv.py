"""DV: Diffusion Veteran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from kedge.data.segments import Until
from kedge.recipes.planning import (
    CriticName,
    DecayName,
    FollowerName,
    NetName,
    OptimiserName,
    PathName,
    Planning,
    Prediction,
    WeightingName,
)
from kedge.walk.solvers import SolverName


@dataclass(frozen=True)
class DV(Planning):
    """Diffusion Veteran: a transformer on the variance-preserving path, 20 steps of DDIM, the best of 50 plans by a
    transformer critic, actions by a diffusion model of inverse dynamics, and a new plan each step.

    Lu et al., "What makes a good diffusion planner for decision making?", ICLR 2025. To the letter as it stands, which
    wants a GPU: a million steps of training, and 50 plans for every step of acting.
    """

    steps: int = 1_000_000
    batch: int = 128
    path: PathName = "vp"
    predict: Prediction = "eps"
    weighting: WeightingName = "eps"
    net: NetName = "dit"
    width: int = 256
    depth: int = 2
    octaves: int = 0
    goals: float = 0.0
    aim: bool = False
    optimiser: OptimiserName = "adamw"
    rate: float = 2e-4
    hold: float = 0.0
    decay: DecayName = "cosine"
    solver: SolverName = "ddim"
    evaluations: int = 20
    rho: float = 0.0
    critic: CriticName = "transformer"
    critic_rate: float = 3e-4
    candidates: int = 50
    support: float = 0.0
    keep: bool = False
    nearby: float = 0.0
    atlas: int = 0
    follow: FollowerName = "inverse-diffusion"
    ahead: int = 15
    replan: int = 1

    until: ClassVar[Until] = "success"
    in_kitchen: ClassVar[Mapping[str, Any]] = {
        "states": "plain", "worth": "rewards", "stride": 4, "ahead": 4, "candidates": 150,
    }  # fmt: skip
