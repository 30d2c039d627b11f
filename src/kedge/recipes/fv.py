"""FV: the fast planner with variational adaptive weighting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from kedge.recipes.planning import KITCHEN, Planning


@dataclass(frozen=True)
class FV(Planning):
    """A planner on TrigFlow's path, trained with the variational polynomial weighting and walked in 5 evaluations.

    "Fast and stable diffusion planning through variational adaptive weighting", 2025 (arXiv:2506.16688). Its choices
    for a short run on a CPU are ours: a small U-Net, Muon, a power-function average. The arms of its ablation are its
    options: `path`, `predict`, `weighting`, `degree`, `regress`, `smooth`, `net`, `solver`.
    """

    in_kitchen: ClassVar[Mapping[str, Any]] = {
        **KITCHEN, "net": "dit", "width": 128, "horizon": 16, "scale_min": 0.05, "steps": 6000, "candidates": 16,
    }  # fmt: skip
    """There a transformer is more than twice as near after the same time of training as a U-Net."""
