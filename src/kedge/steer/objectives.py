"""What samples are to come to: a point, a sketch, out of a zone, and sums of these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from kedge.elementary import Level
from kedge.errors import InputError
from kedge.steer.zones import Zone, drawn, length, total

When = Literal["end", "any"]
"""Which point of a trajectory comes to a place: the last one, or the nearest."""


class Objective(ABC):
    """`xi`: how far each sample is from what is wanted, in the data's own units; the less the better. Sums and
    multiples of objectives are objectives: `Along(line) + 2 * StayOff(box)`.
    """

    @abstractmethod
    def __call__(self, x: Any, t: Level = 0.0, cond: Any = None) -> Float[Tensor, " b"]:
        """`xi(x)`, to be differentiated. x is clean at t = 0, else noised to that level."""

    def example(self, x: Any) -> Any:
        """Samples like x that it likes; entries that it says nothing of are those of x. None if it has no such idea."""
        return None

    def __add__(self, other: Objective) -> Objective:
        """Both."""
        return Together((*_parts(self), *_parts(other)))

    def __mul__(self, times: float | int) -> Objective:
        """The same, more or less of it."""
        return Together(tuple((times * w, part) for w, part in _parts(self)))

    __rmul__ = __mul__


@dataclass(frozen=True)
class Together(Objective):
    """`sum_i w_i xi_i`."""

    parts: tuple[tuple[float, Objective], ...]

    def __call__(self, x: Any, t: Level = 0.0, cond: Any = None) -> Float[Tensor, " b"]:
        """The weighted sum."""
        return torch.stack([w * part(x, t, cond) for w, part in self.parts]).sum(0)

    def example(self, x: Any) -> Any:
        """Of the first that has one."""
        return next((found for _, part in self.parts if (found := part.example(x)) is not None), None)


def _parts(objective: Objective) -> tuple[tuple[float, Objective], ...]:
    return objective.parts if isinstance(objective, Together) else ((1.0, objective),)


@dataclass(frozen=True)
class ComeTo(Objective):
    """The distance of trajectories `[B, H, S]` to a point: at their end, or wherever they are nearest to it.

    Args:
        point: the first numbers of a state.
        when: which point of the trajectory.
    """

    point: tuple[float | int, ...]
    when: When = "end"

    def __post_init__(self) -> None:
        if self.when not in get_args(When):
            raise InputError(f"ComeTo: unknown when={self.when!r}: one of {', '.join(get_args(When))}")
        object.__setattr__(self, "point", tuple(float(p) for p in self.point))

    def __call__(self, x: Any, t: Level = 0.0, cond: Any = None) -> Float[Tensor, " b"]:
        """See the class."""
        away = length(x[..., : len(self.point)] - x.new_tensor(self.point))
        return away[:, -1] if self.when == "end" else away.amin(1)

    def example(self, x: Any) -> Any:
        """Straight there from the first point."""
        d = len(self.point)
        w = torch.linspace(0, 1, x.shape[1], dtype=x.dtype, device=x.device)[:, None]
        straight = (1 - w) * x[:, :1, :d] + w * x.new_tensor(self.point)
        return torch.cat([straight, x[..., d:]], -1)


@dataclass(frozen=True)
class Along(Objective):
    """The mean distance of the points of trajectories `[B, H, S]` to those of a sketch, one by one:
    `xi = mean_k ||x_k - s_k||`, with s the sketch, resampled to even steps.

    Args:
        line: the sketch: points of the plane, in order.
        pace: from one point of s to the next; the points of a trajectory that come after the sketch's end are free.
            None: the sketch is spread over all of them.
        onward: begin where the sketch is nearest to the trajectory's first point, rather than at its beginning: what is
            left of the sketch, for who is on the way. (Of a sketch that crosses itself, the nearest branch.)
    """

    line: tuple[tuple[float | int, float | int], ...]
    pace: float | int | None = None
    onward: bool = False

    def __post_init__(self) -> None:
        if len(self.line) < 2 or not (self.pace is None or self.pace > 0):
            raise InputError(
                f"Along: a sketch has two or more points and a positive pace; got {len(self.line)} and {self.pace}"
            )

    @classmethod
    def of(cls, points: Any, pace: float | int | None = None, onward: bool = False) -> Along:
        """Of anything like `[[x, y], ...]`."""
        return cls(tuple((x, y) for x, y in drawn(points).tolist()), pace, onward)

    def __call__(self, x: Any, t: Level = 0.0, cond: Any = None) -> Float[Tensor, " b"]:
        """See the class."""
        s, told = self._sketch(x)
        away = length(x[..., :2] - s)
        return (away * told).sum(1) / told.sum(1)

    def example(self, x: Any) -> Any:
        """The sketch, and its end from there on."""
        return torch.cat([self._sketch(x)[0], x[..., 2:]], -1)

    @torch.no_grad()
    def _sketch(self, x: Float[Tensor, "b h s"]) -> tuple[Float[Tensor, "b h 2"], Float[Tensor, "b h"]]:
        """Where each point is to be, and 1 where it is to be anywhere."""
        line = x.new_tensor(self.line)
        count, whole = x.shape[1], total(line)
        begin = place_on(x[:, 0, :2], line) if self.onward else x.new_zeros(len(x))
        k = torch.arange(count, device=x.device, dtype=x.dtype)
        if self.pace is None:
            return at_length(line, begin[:, None] + (whole - begin)[:, None] * k / (count - 1)), torch.ones_like(
                x[..., 0]
            )
        far = begin[:, None] + self.pace * k
        told = (far < whole + self.pace).to(x)
        return at_length(line, far.clamp(max=float(whole))), told


@dataclass(frozen=True)
class StayOff(Objective):
    """How far the segments of trajectories `[B, H, S]` would have to be moved to be out of a zone, `margin` kept, in
    all; 0 outside.
    """

    zone: Zone
    margin: float | int = 0.1

    def __call__(self, x: Any, t: Level = 0.0, cond: Any = None) -> Float[Tensor, " b"]:
        """See the class."""
        return self.zone.trespass(x[:, :-1, :2], x[:, 1:, :2], self.margin).sum(1)


def at_length(line: Float[Tensor, "n 2"], far: Float[Tensor, "*b"]) -> Float[Tensor, "*b 2"]:
    """The places of a line after so much of it."""
    lengths = line.diff(dim=0).norm(dim=-1)
    ends = lengths.cumsum(0)
    i = torch.searchsorted(ends, far.contiguous()).clamp(max=len(lengths) - 1)
    w = ((far - (ends - lengths)[i]) / lengths[i].clamp(min=1e-12)).clamp(0, 1)[..., None]
    return (1 - w) * line[i] + w * line[i + 1]


def place_on(p: Float[Tensor, "b 2"], line: Float[Tensor, "n 2"]) -> Float[Tensor, " b"]:
    """How much of a line lies before the place of it that is nearest to each point."""
    start, along = line[:-1], line.diff(dim=0)
    lengths = along.norm(dim=-1)
    w = (((p[:, None] - start) * along).sum(-1) / along.square().sum(-1).clamp(min=1e-24)).clamp(0, 1)
    nearest = (p[:, None] - (start + w[..., None] * along)).norm(dim=-1).argmin(1)
    return (lengths.cumsum(0) - lengths)[nearest] + w.gather(1, nearest[:, None])[:, 0] * lengths[nearest]
