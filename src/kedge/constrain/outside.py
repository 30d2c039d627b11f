"""Staying out of zones, which is no convex set: a convex part of it that is near."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kedge.constrain.constraints import Constraint
from kedge.constrain.rows import Rows
from kedge.errors import InputError

SIDES = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
"""Outward normals of a box."""
OPPOSITE = np.kron(np.eye(2, dtype=bool), np.array([[False, True], [True, False]]))
"""No point is before both of these sides."""
ABREAST = 1e-9
"""A segment that passes the middle of a disc nearer than this leaves it to its left."""


class Outside(Constraint, ABC):
    """All of the way between a trajectory's points is outside a zone of the plane, the first two numbers of a point.

    Each segment is given one line that the zone lies behind, and both of its ends have to be before it: so has all
    that is between them. A segment that begins or ends at a fixed point inside does not count: where a trajectory
    begins inside it may leave.
    """

    @abstractmethod
    def lines(
        self, p: Float[np.ndarray, "h 2"], fixed: Bool[np.ndarray, " h"], counts: Bool[np.ndarray, " k"]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """For each segment an outward normal n `[h - 1, 2]` and how far n . p must be at least `[h - 1]`; what it is
        for a segment that does not count, nobody asks.
        """

    @abstractmethod
    def within(self, p: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Whether a point lies inside."""

    def rows(self, x: Float[np.ndarray, "h d"], known: Bool[np.ndarray, "h d"]) -> Rows | None:
        """Two a segment that counts."""
        h, d = x.shape
        fixed = np.asarray(known[:, :2].all(1))
        stuck = fixed & self.within(x[:, :2])
        counts = ~(stuck[:-1] | stuck[1:])
        found = self.lines(x[:, :2], fixed, counts)
        if found is None:
            return None
        normal, least = found
        A = np.zeros((h - 1, 2, h, d))
        k = np.arange(h - 1)
        A[k, 0, k, :2] = normal
        A[k, 1, k + 1, :2] = normal
        A, low = A[counts].reshape(-1, h * d), np.repeat(least[counts], 2)
        return Rows(A, low, np.full(len(A), np.inf))


@dataclass(frozen=True)
class OutsideBox(Outside):
    """x from, y from, x to, y to."""

    x_from: float
    y_from: float
    x_to: float
    y_to: float

    def __post_init__(self) -> None:
        if not (self.x_from < self.x_to and self.y_from < self.y_to):
            raise InputError(f"{self}: each from is less than its to")

    @property
    def _least(self) -> np.ndarray:
        return np.array([-self.x_from, self.x_to, -self.y_from, self.y_to])

    def within(self, p: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """See `Outside`."""
        return np.asarray((p @ SIDES.T < self._least).all(1))

    def lines(
        self, p: Float[np.ndarray, "h 2"], fixed: Bool[np.ndarray, " h"], counts: Bool[np.ndarray, " k"]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The sides by which the points have the least way to go, as a sum of squares: by dynamic programming over the
        segments, where a point between two has to be before the sides of both.
        """
        short = (self._least - p @ SIDES.T).clip(min=0) ** 2  # [h, 4]: to be before this side
        short[fixed] = np.where(short[fixed] > 0, np.inf, 0.0)
        asked = counts[:, None, None]
        cost, came = np.where(counts[0], short[0], 0.0), np.zeros((len(p) - 1, 4), dtype=int)
        for k in range(1, len(p) - 1):
            one, other = np.where(asked[k - 1], short[k][:, None], 0.0), np.where(asked[k], short[k][None], 0.0)
            between = one + np.where(asked[k - 1] & np.eye(4, dtype=bool), 0.0, other)
            total = cost[:, None] + np.where(asked[k - 1] & asked[k] & OPPOSITE, np.inf, between)
            came[k], cost = total.argmin(0), total.min(0)
        cost = cost + np.where(counts[-1], short[-1], 0.0)
        if not np.isfinite(cost.min()):
            return None
        side = np.empty(len(p) - 1, dtype=int)
        side[-1] = cost.argmin()
        for k in range(len(p) - 2, 0, -1):
            side[k - 1] = came[k, side[k]]
        return SIDES[side], self._least[side]

    def missed(self, x: Float[Tensor, "*b h d"]) -> Float[Tensor, "*b"]:
        """How deep the deepest of the way is inside: the largest, over segments, of the least depth at which one of
        four slabs still holds it.
        """
        a, b = x[..., :-1, :2], x[..., 1:, :2]
        return _counted(self._depth(a, b), self._depth(a[..., 0, :], a[..., 0, :]) > 0)

    def _depth(self, a: Float[Tensor, "*n 2"], b: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n"]:
        """Of a segment: the largest of its points' depths. A depth is the least of four linear functions of s, so that
        the largest is at an end or where two of them cross.
        """
        least = torch.from_numpy(self._least).to(a)
        sides = torch.from_numpy(SIDES).to(a)
        at, slope = least - a @ sides.T, -(b - a) @ sides.T  # depth behind each side: at + s slope
        i, j = torch.triu_indices(4, 4, 1)
        bend = slope[..., i] - slope[..., j]
        s = (at[..., j] - at[..., i]) / torch.where(bend == 0, torch.ones_like(bend), bend)
        s = torch.cat([torch.where(bend == 0, torch.zeros_like(s), s).clamp(0, 1), torch.ones_like(s[..., :1])], -1)
        s = torch.cat([torch.zeros_like(s[..., :1]), s], -1)
        depth = (at[..., None, :] + s[..., :, None] * slope[..., None, :]).amin(-1)
        return depth.amax(-1).clamp(min=0)

    def tightened(self, by: float) -> OutsideBox:
        """See `Constraint`."""
        return OutsideBox(self.x_from - by, self.y_from - by, self.x_to + by, self.y_to + by)


@dataclass(frozen=True)
class OutsideDisc(Outside):
    """All within `radius` of (x, y)."""

    x: float
    y: float
    radius: float

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise InputError(f"{self}: a radius is a positive number")

    @property
    def _centre(self) -> np.ndarray:
        return np.array([self.x, self.y])

    def within(self, p: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """See `Outside`."""
        return np.linalg.norm(p - self._centre, axis=1) < self.radius

    def lines(
        self, p: Float[np.ndarray, "h 2"], fixed: Bool[np.ndarray, " h"], counts: Bool[np.ndarray, " k"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The tangent nearest to where each segment comes nearest, turned until a fixed end of it is before it."""
        a, step = p[:-1], np.diff(p, axis=0)
        along = ((self._centre - a) * step).sum(1) / np.maximum((step**2).sum(1), ABREAST**2)
        away = a + along.clip(0, 1)[:, None] * step - self._centre
        far = np.linalg.norm(away, axis=1, keepdims=True)
        left = np.stack([-step[:, 1], step[:, 0]], 1)
        left = left / np.maximum(np.linalg.norm(left, axis=1, keepdims=True), ABREAST) + (left == 0).all(1)[:, None]
        normal = np.where(far > ABREAST, away / np.maximum(far, ABREAST), left)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        for k in counts.nonzero()[0]:
            for end in (k, k + 1):
                if fixed[end] and not fixed[k : k + 2].all():
                    normal[k] = self._before(normal[k], p[end] - self._centre)
        return normal, normal @ self._centre + self.radius

    def _before(self, n: Float[np.ndarray, " 2"], p: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " 2"]:
        """n, turned no further than it must be for `n . p >= radius`."""
        far = float(np.linalg.norm(p))
        if n @ p >= self.radius or far < self.radius:
            return n
        e = p / far
        cos = self.radius / far
        across = n - (n @ e) * e
        size = float(np.linalg.norm(across))
        across = across / size if size > ABREAST else np.array([-e[1], e[0]])
        # a little within, so that rounding does not put the point behind
        return (cos + 1e-12) * e + np.sqrt(max(0.0, 1 - (cos + 1e-12) ** 2)) * across

    def missed(self, x: Float[Tensor, "*b h d"]) -> Float[Tensor, "*b"]:
        """How far the nearest of the way is within the radius."""
        a, step = x[..., :-1, :2], x[..., 1:, :2] - x[..., :-1, :2]
        centre = torch.from_numpy(self._centre).to(x)
        tiny = torch.finfo(x.dtype).tiny
        along = ((centre - a) * step).sum(-1) / step.square().sum(-1).clamp(min=tiny)
        far = (a + along.clamp(0, 1)[..., None] * step - centre).norm(dim=-1)
        began = (x[..., 0, :2] - centre).norm(dim=-1) < self.radius
        return _counted((self.radius - far).clamp(min=0), began)

    def tightened(self, by: float) -> OutsideDisc:
        """See `Constraint`."""
        return replace(self, radius=self.radius + by)


def _counted(depth: Float[Tensor, "*b k"], began: Bool[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The largest over segments, the first of which does not count where a trajectory began inside."""
    first = torch.where(began, torch.zeros_like(depth[..., 0]), depth[..., 0])
    rest = depth[..., 1:]
    return first if rest.shape[-1] == 0 else torch.maximum(first, rest.amax(-1))
