"""The levels of a walk, and what makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath

Rise = Literal["refuse", "noise", "solve"]


@runtime_checkable
class Grid(Protocol):
    """Where a walk stops. `n` counts the network evaluations of a solver that spends one a step."""

    def levels(self, path: GaussianPath) -> Levels:
        """The levels on this path, noisiest first."""
        ...


@dataclass(frozen=True, eq=False)
class Levels:
    """Levels given by hand: times, noisiest first. It is its own grid.

    Args:
        t: `[N + 1]` times, or `[N + 1, *entries]` where entries of a sample are at levels of their own. A tensor that
            requires a gradient gets one.
        rise: what a rising level means. `"noise"` adds the noise that the path would (restarts, time travel),
            `"solve"` runs the solver upwards (inversion); by default a rising level is a mistake.
        told: the level that the network hears at each of `t` but the last, where it is another one; the solver goes by
            `t`. Grids that are made of others go by their `t` alone.
    """

    t: Sequence[float] | Tensor
    rise: Rise = "refuse"
    told: Sequence[float] | Tensor | None = None

    def levels(self, path: GaussianPath) -> Levels:
        """These in float64, once they have been checked against the path."""
        if self.rise not in get_args(Rise):
            raise ValueError(f"unknown rise={self.rise!r}: one of {', '.join(get_args(Rise))}")
        t = self.t.detach() if isinstance(self.t, Tensor) else list(self.t)
        if len(t) < 2:
            raise ValueError(f"a grid needs at least two levels, got {len(t)}")
        for i, level in enumerate(t):
            try:
                path.check(level)
            except ValueError as error:
                raise ValueError(f"level {i} of the grid: {error}") from None
        for i, (level, following) in enumerate(pairwise(t)):
            self._check_direction(i, level, following)
        self._check_told(path)
        if not isinstance(self.t, Tensor):
            return self
        # A float32 t_max may round up. A clean level takes no gradient: the log-SNR is singular there.
        t = self.t.double().clamp(0.0, path.t_max)
        return Levels(torch.where(t == 0, 0.0, t) if t.requires_grad else t, self.rise, self.told)

    def _check_direction(self, i: int, t: Level, s: Level) -> None:
        up, down = rises(t, s), rises(s, t)
        if up and self.rise == "refuse":
            raise ValueError(
                f"the grid rises after level {i}, from {shown(t)} to {shown(s)}: levels go from the noisiest to the "
                'cleanest; rise="noise" means a restart, rise="solve" an inversion'
            )
        if up and self.rise == "solve" and _any(t == 0):
            raise ValueError(
                f"level {i} is clean: an inversion starts a little above, at t_min, where the noise is known"
            )
        if up and down:
            raise ValueError(f"after level {i} some entries rise and others fall: split it into two steps")

    def _check_told(self, path: GaussianPath) -> None:
        if self.told is None:
            return
        if len(self.told) != len(self.t) - 1:
            raise ValueError(f"told: {len(self.t) - 1} levels are asked at, but {len(self.told)} are told")
        for i, level in enumerate(self.told.detach() if isinstance(self.told, Tensor) else self.told):
            try:
                path.check(level)
            except ValueError as error:
                raise ValueError(f"told level {i} of the grid: {error}") from None
            if _any(level == 0):
                raise ValueError(f"told level {i} of the grid is clean: there is no noise to hear of")

    def rows(self) -> list[Level]:
        """The levels one by one: plain floats where one serves all entries, else tensors with a batch axis of 1."""
        return _rows(self.t)

    def heard(self) -> list[Level] | None:
        """What the network hears at each of them but the last, where that differs."""
        return None if self.told is None else _rows(self.told)


@dataclass(frozen=True, eq=False)
class Span:
    """Noise scales (sigma / alpha) between which a grid lies; by default those of the path's own ends."""

    low: float
    high: float

    @classmethod
    def of(cls, path: GaussianPath, n: int, scale_min: float | None, scale_max: float | None) -> Span:
        """Checked against the path."""
        if n < 1:
            raise ValueError(f"a grid needs at least one step, got n={n}")
        ends = path.noise_scale(path.t_min), path.noise_scale(path.t_max)
        low = ends[0] if scale_min is None else scale_min
        high = ends[1] if scale_max is None else scale_max
        if not 0 < low < high <= ends[1] * (1 + 1e-9):
            raise ValueError(
                f"noise scales {low:.4g} to {high:.4g}: expected 0 < scale_min < scale_max <= {ends[1]:.4g}, "
                "the path's end"
            )
        return cls(low, high)


def _rows(t: Sequence[float] | Tensor) -> list[Level]:
    if not isinstance(t, Tensor):
        return [float(level) for level in t]
    if t.ndim == 1:
        return list(t.unbind()) if t.requires_grad else t.tolist()
    return list(t.unsqueeze(1).unbind())


def fractions(n: int) -> list[float]:
    """`n` numbers from 0 to 1."""
    return [i / max(n - 1, 1) for i in range(n)]


def down_to_clean(path: GaussianPath, noise_scales: Sequence[float]) -> Levels:
    """The levels at these noise scales, and the clean one last."""
    return Levels([min(path.time_at(scale), path.t_max) for scale in noise_scales] + [0.0])


def rises(t: Level, s: Level) -> bool:
    """Whether any entry goes up from t to s, beyond rounding: grids that are joined may differ in the last digit."""
    return _any(s > t * (1 + 1e-12))


def _any(condition: Any) -> bool:
    return bool(condition.any()) if isinstance(condition, Tensor) else condition


def shown(level: Level) -> str:
    """A level in a message: levels of entries by their range."""
    ends = (level.min().item(), level.max().item()) if isinstance(level, Tensor) else (level, level)
    return f"{ends[0]:.6g}" if ends[0] == ends[1] else f"{ends[0]:.6g}..{ends[1]:.6g}"
