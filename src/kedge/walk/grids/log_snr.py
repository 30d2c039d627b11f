"""Levels uniform in log-SNR."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kedge.paths.gaussian import GaussianPath
from kedge.walk.grids.levels import Levels, Span, down_to_clean, fractions


@dataclass(frozen=True)
class LogSNR:
    """`n` noise scales in geometric progression, then clean: equal steps for an exponential integrator."""

    n: int
    scale_min: float | None = None
    scale_max: float | None = None

    def levels(self, path: GaussianPath) -> Levels:
        """From `scale_max` down to `scale_min`, then 0."""
        span = Span.of(path, self.n, self.scale_min, self.scale_max)
        low, high = math.log(span.low), math.log(span.high)
        return down_to_clean(path, [math.exp(high + f * (low - high)) for f in fractions(self.n)])
