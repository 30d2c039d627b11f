"""The tangent law."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kedge.paths.gaussian import GaussianPath
from kedge.walk.grids.levels import Levels, Span


@dataclass(frozen=True)
class Tangent:
    """`scale_i = gamma tan((1 - i / n) arctan(scale_max / gamma))`: uniform in the angle between noise and data whose
    spread is gamma, and clean at its end.

    With `gamma = sqrt(lambda)` no grid of n steps of DDIM comes nearer to a Gaussian of variance lambda ("An elementary
    approach to scheduling in generative diffusion models"); with `gamma = 1` and noise without end these are the levels
    of a cosine schedule. `kedge.distill.spectrum` finds the gamma of a whole spectrum.
    """

    n: int
    gamma: float = 1.0
    scale_max: float | None = None

    def levels(self, path: GaussianPath) -> Levels:
        """From `scale_max` down to 0."""
        if not self.gamma > 0:
            raise ValueError(f"Tangent: gamma is a spread, above 0, not {self.gamma}")
        high = Span.of(path, self.n, None, self.scale_max).high
        angle = math.atan(high / self.gamma)
        scales = [high] + [self.gamma * math.tan((1 - i / self.n) * angle) for i in range(1, self.n)]
        return Levels([min(path.time_at(scale), path.t_max) for scale in scales] + [0.0])
