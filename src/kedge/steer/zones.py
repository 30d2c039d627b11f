"""Places to stay out of: boxes, discs and drawn lines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kedge.errors import InputError


class Zone(ABC):
    """A part of the plane. All is in the data's own units, in their first two dimensions."""

    @abstractmethod
    def trespass(self, a: Float[Tensor, "*n 2"], b: Float[Tensor, "*n 2"], margin: float | int) -> Float[Tensor, "*n"]:
        """How far each segment from a to b has to be moved to be out, `margin` kept: 0 outside; what can be
        differentiated says which way.
        """


@dataclass(frozen=True)
class Box(Zone):
    """x from, y from, x to, y to."""

    x_from: float | int
    y_from: float | int
    x_to: float | int
    y_to: float | int

    def __post_init__(self) -> None:
        if not (self.x_from < self.x_to and self.y_from < self.y_to):
            raise InputError(f"{self}: each from is less than its to")

    def trespass(self, a: Float[Tensor, "*n 2"], b: Float[Tensor, "*n 2"], margin: float | int) -> Float[Tensor, "*n"]:
        """Out by the nearest side, at some points along."""
        low = a.new_tensor([self.x_from, self.y_from]) - margin
        high = a.new_tensor([self.x_to, self.y_to]) + margin
        p = between(a, b)
        return torch.cat([p - low, high - p], -1).amin(-1).clamp(min=0).mean(-1)


@dataclass(frozen=True)
class Disc(Zone):
    """All within `radius` of (x, y)."""

    x: float | int
    y: float | int
    radius: float | int

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise InputError(f"{self}: a radius is a positive number")

    def trespass(self, a: Float[Tensor, "*n 2"], b: Float[Tensor, "*n 2"], margin: float | int) -> Float[Tensor, "*n"]:
        """Out along the radius, at some points along."""
        away = length(between(a, b) - a.new_tensor([self.x, self.y]))
        return (self.radius + margin - away).clamp(min=0).mean(-1)


@dataclass(frozen=True)
class Polyline(Zone):
    """A drawn line: a wall that is not to be crossed."""

    points: tuple[tuple[float | int, float | int], ...]

    def __post_init__(self) -> None:
        if len(self.points) < 2:
            raise InputError(f"a line is drawn through two or more points, got {len(self.points)}")

    @classmethod
    def of(cls, points: Any) -> Polyline:
        """Of anything like `[[x, y], ...]`; points that repeat the one before are left out."""
        rows = drawn(points).tolist()
        kept = [rows[0], *(q for p, q in pairwise(rows) if p != q)]
        return cls(tuple((x, y) for x, y in kept))

    def trespass(self, a: Float[Tensor, "*n 2"], b: Float[Tensor, "*n 2"], margin: float | int) -> Float[Tensor, "*n"]:
        """A segment that crosses the line goes to the line's nearer end, and `margin` beyond; one that comes nearer
        than the margin goes away from it.
        """
        line = a.new_tensor(self.points)
        where, crosses = crossings(a, b, line)
        to_end = torch.minimum(where, total(line) - where) + margin
        near = (margin - distance(between(a, b), line)).clamp(min=0).mean(-1)
        return torch.where(crosses, to_end, near)


def drawn(points: Any) -> Float[Tensor, "n 2"]:
    """Points of the plane, in float64."""
    try:
        found = torch.as_tensor(points, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"points are [[x, y], ...]: {error}") from None
    if found.ndim != 2 or found.shape[1] != 2 or not len(found) or not bool(found.isfinite().all()):
        raise InputError(f"points are finite [[x, y], ...]; got shape {list(found.shape)}")
    return found


def between(a: Float[Tensor, "*n 2"], b: Float[Tensor, "*n 2"], points: int = 6) -> Float[Tensor, "*n points 2"]:
    """So many points of each segment, from after a to b."""
    w = torch.arange(1, points + 1, device=a.device, dtype=a.dtype) / points
    return a[..., None, :] + w[:, None] * (b - a)[..., None, :]


def length(vector: Float[Tensor, "*n d"], least: float = 1e-9) -> Float[Tensor, "*n"]:
    """The Euclidean norm, with a gradient of 0 at 0."""
    return (vector.square().sum(-1) + least * least).sqrt()


def total(line: Float[Tensor, "n 2"]) -> Tensor:
    """How long a line is."""
    return line.diff(dim=0).norm(dim=-1).sum()


def distance(p: Float[Tensor, "*n 2"], line: Float[Tensor, "m 2"]) -> Float[Tensor, "*n"]:
    """Of points to the nearest place of a line."""
    start, along = line[:-1], line.diff(dim=0)
    w = (((p[..., None, :] - start) * along).sum(-1) / along.square().sum(-1)).clamp(0, 1).detach()
    return length(p[..., None, :] - (start + w[..., None] * along)).amin(-1)


def crossings(
    a: Float[Tensor, "*n 2"], b: Float[Tensor, "*n 2"], line: Float[Tensor, "m 2"]
) -> tuple[Float[Tensor, "*n"], Tensor]:
    """Where along the line each segment crosses it (for the first time; 0 if nowhere), and whether it does."""
    start, along = line[:-1], line.diff(dim=0)
    way, off = (b - a)[..., None, :], start - a[..., None, :]
    cross = _cross(way, along)
    safe = torch.where(cross.abs() > 1e-12, cross, torch.ones_like(cross))
    u, v = _cross(off, along) / safe, _cross(off, way) / safe
    meets = (cross.abs() > 1e-12) & (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    lengths = along.norm(dim=-1)
    where = (lengths.cumsum(0) - lengths) + v * lengths
    first = torch.where(meets, u, torch.full_like(u, torch.inf)).argmin(-1, keepdim=True)
    crosses = meets.any(-1)
    return torch.where(crosses, where.gather(-1, first)[..., 0], torch.zeros_like(where[..., 0])), crosses


def _cross(p: Tensor, q: Tensor) -> Tensor:
    return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]
