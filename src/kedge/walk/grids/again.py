"""Levels that are walked more than once, and grids that begin lower."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from kedge.paths.gaussian import GaussianPath
from kedge.walk.grids.levels import Grid, Levels

By = Literal["step", "clean"]
"""Where a level is noised up from: the level after it, or the clean estimate."""


@dataclass(frozen=True)
class Again:
    """Each step of a grid `times` times: down, up again by noise, and down again, before going on. In effect a Markov
    chain at each level, whose end is where the next level begins.

    `by="step"`, `t, s, t, s, ...`: a step of the sampler and one of the noising. With `e = r_t^2 - r_s^2`, the fall of
    the squared noise scale, both together move x / alpha by `e / 2 score + sqrt(e) z` (DDIM) or by twice that drift and
    variance (DDPM): an unadjusted Langevin step, which samples what the score is the score of, guided or not, the
    better the finer the grid. Du et al., "Reduce, reuse, recycle", ICML 2023.

    `by="clean"`, `t, 0, t, 0, ..., t, s`: through the estimate, `x_t <- alpha x_hat(x_t) + sigma z`. Wang et al.,
    "Inference-time policy steering through human interactions", 2025, algorithm 1. It moves farther at once.
    But an estimate is a mean, not a sample: on a Gaussian of variance v, at noise scale r, x / alpha settles at the
    variance `(v + r^2)^2 / (2 v + r^2)`, half of what is right where r is small. So samples are nearer to the modes.
    """

    grid: Grid
    times: int = 4
    by: By = "step"

    def __post_init__(self) -> None:
        if self.times < 1 or self.by not in get_args(By):
            raise ValueError(f'{self}: each level is walked 1 or more times, by "step" or "clean"')

    def levels(self, path: GaussianPath) -> Levels:
        """`times` evaluations for each step of the grid."""
        rows = [float(t) for t in self.grid.levels(path).rows()]
        found = rows[:1]
        for t, s in pairwise(rows):
            found += [0.0 if self.by == "clean" else s, t] * (self.times - 1) + [s]
        return Levels(found, rise="noise")


@dataclass(frozen=True)
class Below:
    """From a noise scale on: it, and the levels of a grid that are cleaner. For walks from something that is known but
    for this much noise.
    """

    grid: Grid
    scale: float | int

    def levels(self, path: GaussianPath) -> Levels:
        """One evaluation for each level but the last."""
        whole = self.grid.levels(path)
        first, rows = path.time_at(self.scale), [float(t) for t in whole.rows()]
        if not 0 < first <= path.t_max:
            raise ValueError(f"Below: no level of {path} has the noise scale {self.scale}")
        return Levels([first, *(t for t in rows if t < first * (1 - 1e-9))], whole.rise)
