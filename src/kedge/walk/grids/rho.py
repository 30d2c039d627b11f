"""EDM's levels."""

from __future__ import annotations

from dataclasses import dataclass

from kedge.paths.gaussian import GaussianPath
from kedge.walk.grids.levels import Levels, Span, down_to_clean, fractions


@dataclass(frozen=True)
class Rho:
    """`scale_i = (high^(1/rho) + i / (n - 1) (low^(1/rho) - high^(1/rho)))^rho`, then clean.

    Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, eq. 5. A large rho
    spends more steps near the data.
    """

    n: int
    rho: float = 7.0
    scale_min: float | None = None
    scale_max: float | None = None

    def levels(self, path: GaussianPath) -> Levels:
        """From `scale_max` down to `scale_min`, then 0."""
        if self.rho <= 0:
            raise ValueError(f"rho must be positive, got {self.rho}")
        span = Span.of(path, self.n, self.scale_min, self.scale_max)
        low, high = span.low ** (1 / self.rho), span.high ** (1 / self.rho)
        return down_to_clean(path, [(high + f * (low - high)) ** self.rho for f in fractions(self.n)])
