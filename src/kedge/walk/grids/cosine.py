"""Levels uniform in the angle between data and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kedge.paths.gaussian import GaussianPath
from kedge.walk.grids.levels import Levels, Span, down_to_clean, fractions


@dataclass(frozen=True)
class Cosine:
    """Uniform in `theta = arctan(sigma / alpha)`, then clean: where a cosine schedule of n steps would stop."""

    n: int
    scale_min: float | None = None
    scale_max: float | None = None

    def levels(self, path: GaussianPath) -> Levels:
        """From `scale_max` down to `scale_min`, then 0."""
        span = Span.of(path, self.n, self.scale_min, self.scale_max)
        low, high = math.atan(span.low), math.atan(span.high)
        return down_to_clean(path, [math.tan(high + f * (low - high)) for f in fractions(self.n)])
