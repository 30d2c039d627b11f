"""Constraints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from kedge.denoise import Estimate, Estimator, Wrapped
from kedge.elementary import Level
from kedge.tree import Tree
from kedge.walk.state import Hook, Place, State, Step


@dataclass(frozen=True, eq=False)
class Project(Hook):
    """Maps onto a constraint: the state after each step, or (`on="clean"`) each estimate of the clean x, before the
    solver uses it.

    A state that is moved far leaves a multistep solver with estimates that belong to other points; `forget=True` clears
    them.
    """

    onto: Callable[[Tree], Tree]
    on: Literal["state", "clean"] = "state"
    forget: bool = False
    place: Place = "project"

    def __post_init__(self) -> None:
        if self.on not in ("state", "clean"):
            raise ValueError(f'Project works on "state" or "clean", not {self.on!r}')

    def wrap(self, denoiser: Estimator) -> Estimator:
        """With `on="clean"`, the denoiser whose estimates are projected."""
        return Wrapped(denoiser, self._clean) if self.on == "clean" else denoiser

    def after(self, state: State, step: Step) -> State:
        """With `on="state"`, projects x_s."""
        if self.on == "state":
            state.x = self.onto(state.x)
            if self.forget:
                state.memory = {}
        return state

    def _clean(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
        estimate = inner.estimate(x_t, t, cond)
        return Estimate(self.onto(estimate.x), estimate.extra)
