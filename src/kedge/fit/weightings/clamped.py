"""A weighting whose large weights are let in little by little."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kedge.fit.weightings.weighting import Weighting


class Clamped(nn.Module, Weighting):
    """`min(weight, c)` of another weighting, with c growing from `first` to `last` by the same factor in each batch;
    then the weighting as it is. Levels of little noise, whose weights explode, are learned after the others.

    Wu et al., "Fast diffusion model", 2023, section 4.3: 5 to 500 on EDM's weighting.

    Args:
        weighting: whose weights are held.
        batches: how many it takes.
        first, last: the limits at the beginning and at the end.
    """

    seen: Tensor

    def __init__(self, weighting: Weighting, batches: int, first: float = 5.0, last: float = 500.0) -> None:
        super().__init__()
        if batches < 1 or not 0 < first < last:
            raise ValueError(f"Clamped: expected batches >= 1 and 0 < first < last, got {batches}, {first}, {last}")
        self.weighting, self.batches, self.first, self.last = weighting, batches, first, last
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    @property
    def limit(self) -> Tensor:
        """c, and infinity at the end."""
        c = self.first * (self.seen / self.batches * math.log(self.last / self.first)).exp()
        return torch.where(self.seen < self.batches, c, math.inf)

    def __call__(self, log_snr: Tensor) -> Tensor:
        """See the class."""
        weight = self.weighting(log_snr)
        return torch.minimum(weight, self.limit.to(weight))

    def penalty(self, log_snr: Tensor) -> Tensor:
        """The inner one's."""
        return self.weighting.penalty(log_snr)

    def cover(self, log_snr: Tensor) -> None:
        """Told on."""
        self.weighting.cover(log_snr)

    def update(self, log_snr: Tensor, error: Tensor) -> None:
        """Counts the batches, and tells it on."""
        self.seen += 1
        self.weighting.update(log_snr, error)
