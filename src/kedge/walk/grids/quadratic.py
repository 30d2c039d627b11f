"""Levels uniform in the root of the path's time."""

from __future__ import annotations

from dataclasses import dataclass

from kedge.paths.gaussian import GaussianPath
from kedge.walk.grids.levels import Levels


@dataclass(frozen=True)
class Quadratic:
    """`t_i = t_max (1 - i / n)^2`: steps that shrink toward the data.

    Song, Meng and Ermon, "Denoising diffusion implicit models", ICLR 2021, appendix D.2.
    """

    n: int

    def levels(self, path: GaussianPath) -> Levels:
        """`t_max` down to 0."""
        if self.n < 1:
            raise ValueError(f"a grid needs at least one step, got n={self.n}")
        return Levels([path.t_max * (1 - i / self.n) ** 2 for i in range(self.n + 1)])
