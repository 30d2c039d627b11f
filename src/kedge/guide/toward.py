"""Guidance toward an objective that is said in the data's own units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from kedge.denoise import Estimate, Estimator
from kedge.elementary import Level
from kedge.guide.gradient import Gradient, Onto, Through
from kedge.guide.guide import Guide
from kedge.tree import Tree


@dataclass(frozen=True)
class Toward(Guide):
    """`score' = score - w grad xi`: samples of `p(x) e^{-w xi(x)}` are asked for. See `Gradient`, whose log-likelihood
    is `-xi` here.

    Args:
        objective: `xi(x, t, cond) -> [B]`, the less the better: x in the data's own units (noised, and then t is its
            level, with `through="state"`; else clean, and t is 0), cond as the denoiser is told it.
        weight: w. 0 changes nothing.
        through: what xi is a function of: see `Gradient`.
        onto: what its gradient is added to.
        undo: makes the data's own units of what the denoiser sees; who normalises says it, by `measured`.
    """

    objective: Callable[..., Tensor]
    weight: float = 1.0
    through: Through = "clean"
    onto: Onto = "score"
    undo: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        Gradient(self.objective, self.weight, self.through, self.onto)

    def measured(self, undo: Callable[[Tensor], Tensor]) -> Guide:
        """See `Guide`; what was said first holds."""
        return self if self.undo is not None else replace(self, undo=undo)

    def __call__(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
        """As many evaluations as `Gradient` takes."""

        def fitting(x: Any, level: Level = 0.0) -> Tensor:
            return -self.objective(x if self.undo is None else self.undo(x), level, cond)

        return Gradient(fitting, self.weight, self.through, self.onto)(inner, x_t, t, cond)
