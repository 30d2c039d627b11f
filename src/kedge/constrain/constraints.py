"""What a trajectory has to satisfy: how it may move, and where it may be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kedge.constrain.rows import Rows
from kedge.errors import InputError


class Constraint(ABC):
    """A set of trajectories `[H, D]`, in the data's own units."""

    @abstractmethod
    def rows(self, x: Float[np.ndarray, "h d"], known: Bool[np.ndarray, "h d"]) -> Rows | None:
        """Linear rows whose solutions lie in the set: the set itself where it is convex, else a convex part of it that
        is near x and that the `known` entries, which stay, leave possible. None where there is no such part.
        """

    @abstractmethod
    def missed(self, x: Float[Tensor, "*b h d"]) -> Float[Tensor, "*b"]:
        """By how much each trajectory misses it; 0 inside."""

    def tightened(self, by: float) -> Constraint:
        """The trajectories that stay in it if every point is off by so much. What says how to move is not tightened."""
        return self


@dataclass(frozen=True, eq=False)
class Moves(Constraint):
    """`x_{h+1} = F x_h + c` for each point, x being all its numbers: states, and actions where they are planned.

    F:    `[d, D]`, rows for the numbers that are foretold, which are the first d of a point
    c:    `[d]`; zero unless said
    """

    F: Any
    c: Any = None

    def __post_init__(self) -> None:
        F = np.asarray(self.F, dtype=float)
        c = np.zeros(len(F)) if self.c is None else np.asarray(self.c, dtype=float)
        if F.ndim != 2 or F.shape[0] > F.shape[1] or c.shape != F.shape[:1]:
            raise InputError(f"Moves: F is [d, D] with d <= D, c is [d]; got {list(F.shape)} and {list(c.shape)}")
        object.__setattr__(self, "F", F)
        object.__setattr__(self, "c", c)

    @classmethod
    def by_velocity(cls, dt: float, dim: int = 2) -> Moves:
        """`p_{h+1} = p_h + dt u_h` for points `(p, u)` of `dim` numbers each: Euler's step of a velocity."""
        return cls(np.concatenate([np.eye(dim), dt * np.eye(dim)], 1))

    def rows(self, x: Float[np.ndarray, "h d"], known: Bool[np.ndarray, "h d"]) -> Rows:
        """`F x_h - x_{h+1} = -c`."""
        h, d = x.shape
        if self.F.shape[1] != d:
            raise InputError(f"Moves foretells points of {self.F.shape[1]} numbers, these have {d}")
        told = len(self.F)
        A = np.zeros((h - 1, told, h, d))
        for k in range(h - 1):
            A[k, :, k] = self.F
            A[k, :, k + 1] -= np.eye(told, d)
        c = np.tile(-self.c, h - 1)
        return Rows(A.reshape(-1, h * d), c, c)

    def missed(self, x: Float[Tensor, "*b h d"]) -> Float[Tensor, "*b"]:
        """The largest one-step error."""
        F, c = torch.from_numpy(self.F).to(x), torch.from_numpy(self.c).to(x)
        error = x[..., :-1, :] @ F.T + c - x[..., 1:, : len(F)]
        return error.abs().flatten(-2).amax(-1)


@dataclass(frozen=True, eq=False)
class HalfSpace(Constraint):
    """`normal . x_h <= offset` for every point but the first, of the first numbers of a point."""

    normal: Any
    offset: float

    def __post_init__(self) -> None:
        normal = np.asarray(self.normal, dtype=float)
        if normal.ndim != 1 or not np.linalg.norm(normal) > 0:
            raise InputError(f"HalfSpace: a normal is a vector other than zero, got {self.normal}")
        object.__setattr__(self, "normal", normal)

    def rows(self, x: Float[np.ndarray, "h d"], known: Bool[np.ndarray, "h d"]) -> Rows:
        """One a point."""
        h, d = x.shape
        A = np.zeros((h - 1, h, d))
        A[np.arange(h - 1), np.arange(1, h), : len(self.normal)] = self.normal
        return Rows(A.reshape(h - 1, -1), np.full(h - 1, -np.inf), np.full(h - 1, float(self.offset)))

    def missed(self, x: Float[Tensor, "*b h d"]) -> Float[Tensor, "*b"]:
        """The largest distance past it."""
        n = torch.from_numpy(self.normal).to(x)
        past = x[..., 1:, : len(n)] @ n - self.offset
        return past.amax(-1).clamp(min=0) / n.norm()

    def tightened(self, by: float) -> HalfSpace:
        """See `Constraint`."""
        return HalfSpace(self.normal, self.offset - by * float(np.linalg.norm(self.normal)))


@dataclass(frozen=True)
class Limits(Constraint):
    """`low <= x_h[first:last] <= high` for every point but the first: of a speed or an action, say."""

    first: int
    last: int
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (0 <= self.first < self.last and self.low <= self.high):
            raise InputError(f"{self}: wanted 0 <= first < last and low <= high")

    def rows(self, x: Float[np.ndarray, "h d"], known: Bool[np.ndarray, "h d"]) -> Rows:
        """One a number."""
        h, d = x.shape
        chosen = np.zeros((h, d), dtype=bool)
        chosen[1:, self.first : self.last] = True
        A = np.eye(h * d)[chosen.ravel()]
        return Rows(A, np.full(len(A), float(self.low)), np.full(len(A), float(self.high)))

    def missed(self, x: Float[Tensor, "*b h d"]) -> Float[Tensor, "*b"]:
        """The largest distance out."""
        some = x[..., 1:, self.first : self.last].flatten(-2)
        return torch.maximum(self.low - some, some - self.high).amax(-1).clamp(min=0)
