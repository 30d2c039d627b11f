"""Two denoisers in one walk, one after the other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kedge.cond import take_cond
from kedge.denoise import Estimate, Pinning, as_estimator
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath
from kedge.tree import Tree, lead, tree_map


class Told:
    """A condition as each of the two wants it."""

    def __init__(self, early: Any, late: Any) -> None:
        self.early, self.late = early, late

    def take(self, index: Tensor) -> Told:
        """The samples at `index`."""
        return Told(take_cond(self.early, index), take_cond(self.late, index))


class Relay(nn.Module):
    """`D(x_t, t) = late(x_t, t)` for t <= at, `early(x_t, t)` above: one denoiser begins a walk, the other ends it.

    With a frozen `early`, training what this makes trains the last steps alone: see `Relay.last`.

    Args:
        early: for the noisy levels.
        late: for the rest, over the same path.
        at: the noisiest level that is the later one's.
    """

    def __init__(self, early: Any, late: Any, at: float) -> None:
        super().__init__()
        self.early, self.late, self.at = early, late, at
        self._both = as_estimator(early), as_estimator(late)
        first, second = self._both
        if first.path != second.path or first.pinned != second.pinned:
            raise ValueError(f"Relay: both denoise the same path, not {first.path} and then {second.path}")

    @classmethod
    def last(cls, denoiser: nn.Module, levels: Sequence[float] | Tensor, steps: int) -> Relay:
        """The denoiser for the last steps of a walk over these levels, a frozen copy of it for those before."""
        if not 0 < steps < len(levels):
            raise ValueError(f"Relay: a walk of {len(levels) - 1} steps has no last {steps}")
        early = copy.deepcopy(denoiser).eval().requires_grad_(False)
        return cls(early, denoiser, float(levels[-1 - steps]))

    @property
    def path(self) -> GaussianPath:
        """Of both."""
        return self._both[1].path

    @property
    def pinned(self) -> Pinning:
        """As both were trained."""
        return self._both[1].pinned

    def forward(self, x_t: Tree, t: Level, cond: Any = None) -> Any:
        """The expected clean x."""
        self.path.check(t)
        return self.estimate(x_t, t, cond).x

    def estimate(self, x_t: Tree, t: Level, cond: Any = None) -> Estimate:
        """That of the one whose turn it is; of both, where levels differ between samples."""
        early, late = self._both
        told = cond if isinstance(cond, Told) else Told(cond, cond)
        turn: Any = t <= self.at
        if not isinstance(turn, Tensor):
            return late.estimate(x_t, t, told.late) if turn else early.estimate(x_t, t, told.early)
        if bool(turn.all()):
            return late.estimate(x_t, t, told.late)
        before = early.estimate(x_t, t, told.early)
        if not bool(turn.any()):
            return before
        after = late.estimate(x_t, t, told.late)
        return Estimate(tree_map(lambda a, b: torch.where(lead(turn, a) > 0, a, b), after.x, before.x), after.extra)

    def prepare(self, cond: Any) -> Any:
        """As each of them does."""
        early, late = (one.prepare(cond) for one in self._both)
        return cond if early is cond and late is cond else Told(early, late)
