"""Levels that were fitted to a denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from kedge.paths.gaussian import GaussianPath
from kedge.walk.grids.levels import Levels


@dataclass(frozen=True)
class Fitted:
    """Noise scales, noisiest first, then clean: what `kedge.distill` finds for a denoiser, good on every path.

    Args:
        scales: one for each evaluation.
        told: the noise scale that the network hears at each, where it was fitted as well; none: the same.
    """

    scales: tuple[float, ...]
    told: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.scales or not all(r > s for r, s in pairwise((*self.scales, 0.0))):
            raise ValueError(f"Fitted: noise scales fall and are above 0, unlike {list(self.scales)}")
        if self.told and (len(self.told) != len(self.scales) or not all(r > 0 for r in self.told)):
            raise ValueError(f"Fitted: {len(self.scales)} noise scales are told, all above 0, not {list(self.told)}")

    @property
    def n(self) -> int:
        """Network evaluations of a solver that spends one a step."""
        return len(self.scales)

    def levels(self, path: GaussianPath) -> Levels:
        """From the first of the scales down to the last, then 0."""
        end = path.noise_scale(path.t_max)
        if not self.scales[0] <= end * (1 + 1e-9):
            raise ValueError(f"Fitted: it begins at the noise scale {self.scales[0]:.4g}, but {path} ends at {end:.4g}")
        t, told = ([min(path.time_at(r), path.t_max) for r in scales] for scales in (self.scales, self.told))
        return Levels([*t, 0.0], told=told or None)
