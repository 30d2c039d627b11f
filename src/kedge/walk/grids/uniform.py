"""Levels uniform in the path's own time."""

from __future__ import annotations

from dataclasses import dataclass

from kedge.paths.gaussian import GaussianPath
from kedge.walk.grids.levels import Levels


@dataclass(frozen=True)
class Uniform:
    """`t_i = t_max (1 - i / n)`: n steps of equal length."""

    n: int

    def levels(self, path: GaussianPath) -> Levels:
        """`t_max` down to 0."""
        if self.n < 1:
            raise ValueError(f"a grid needs at least one step, got n={self.n}")
        return Levels([path.t_max * (1 - i / self.n) for i in range(self.n + 1)])
