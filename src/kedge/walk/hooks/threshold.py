"""Thresholding of the clean estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.denoise import Estimate, Estimator, Wrapped
from kedge.elementary import Level
from kedge.tree import Tree, tree_map
from kedge.walk.state import Hook, Place


@dataclass(frozen=True)
class Threshold(Hook):
    """Keeps every estimate of the clean x within `[-limit, limit]`. With a `quantile` (say .995) a sample's limit is
    that quantile of its magnitudes where this is larger, and the estimate is scaled back into the limit.

    Saharia et al., "Photorealistic text-to-image diffusion models", NeurIPS 2022, section 2.3 (static and dynamic).
    """

    limit: float = 1.0
    quantile: float | None = None
    place: Place = "project"

    def __post_init__(self) -> None:
        if self.limit <= 0 or not (self.quantile is None or 0 < self.quantile <= 1):
            raise ValueError(f"{self}: expected limit > 0 and a quantile in (0, 1]")

    def wrap(self, denoiser: Estimator) -> Estimator:
        """The denoiser whose estimates are clipped."""
        return Wrapped(denoiser, self._clipped)

    def _clipped(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
        estimate = inner.estimate(x_t, t, cond)
        return Estimate(tree_map(self._clip, estimate.x), estimate.extra)

    def _clip(self, x: Tensor) -> Tensor:
        if self.quantile is None:
            return x.clamp(-self.limit, self.limit)
        sizes = x.abs().flatten(1).to(torch.promote_types(x.dtype, torch.float32))  # half precision has no quantile
        reach = sizes.quantile(self.quantile, dim=1).clamp(min=self.limit).to(x.dtype)
        reach = reach.reshape(-1, *[1] * (x.ndim - 1))
        return x.clamp(-reach, reach) * (self.limit / reach)
