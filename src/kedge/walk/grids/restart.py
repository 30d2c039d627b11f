"""A stretch of levels that is walked again and again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kedge.paths.gaussian import GaussianPath
from kedge.walk.grids.levels import Grid, Levels


@dataclass(frozen=True)
class Restart:
    """A grid's walk that, once it is down at the noise scale `low`, is noised up to `high` and walked down again in
    `steps` steps, `times` times, before it goes on (Xu et al., "Restart sampling for improving generative processes",
    NeurIPS 2023). Noise in so large a dose makes two samples of different pasts alike: what was wrong
    above is forgotten, at a factor for each restart, whereas a step of the reverse SDE forgets little and errs at once.

    `low` is the grid's level nearest to it. On the way down levels are EDM's with this `rho`. Several stretches are
    grids within each other: `Restart(Restart(grid, 1.0, 40.0), 0.06, 0.3)`.

    Args:
        grid: the levels of the walk itself.
        low: t_min of the paper, a noise scale.
        high: its t_max.
        times: K of the paper.
        steps: N_Restart.
        rho: of the levels between.
    """

    grid: Grid
    low: float | int
    high: float | int
    times: int = 1
    steps: int = 3
    rho: float | int = 7

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high and self.times >= 0 and self.steps >= 1 and self.rho > 0):
            raise ValueError(f"{self}: low lies below high, times is 0 or more, steps 1 or more")

    def levels(self, path: GaussianPath) -> Levels:
        """The grid's, and `times (steps + 1)` more, of which one in `steps + 1` is a rise."""
        rows = [float(t) for t in self.grid.levels(path).rows()]
        noisy = [i for i, t in enumerate(rows) if t > 0]
        at = max(noisy, key=lambda i: (-abs(math.log(path.noise_scale(rows[i]) / self.low)), i))
        low, top = path.noise_scale(rows[at]), path.noise_scale(path.t_max)
        if not low < self.high <= top * (1 + 1e-9):
            raise ValueError(
                f"Restart: {self.high} lies outside {low:.4g} to {top:.4g}, the grid's level and the path's end"
            )
        a, b = self.high ** (1 / self.rho), low ** (1 / self.rho)
        scales = [(a + i / self.steps * (b - a)) ** self.rho for i in range(self.steps)]
        down = [min(path.time_at(scale), path.t_max) for scale in scales]
        return Levels([*rows[: at + 1], *[*down, rows[at]] * self.times, *rows[at + 1 :]], rise="noise")
