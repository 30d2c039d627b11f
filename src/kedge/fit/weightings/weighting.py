"""What a weighting is."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Weighting(Protocol):
    """A function of the log-SNR, on the squared error of the clean estimate, `|x_hat - x|^2`.

    Most need only `__call__`. One that follows the training sees the unweighted error of every batch.
    """

    @abstractmethod
    def __call__(self, log_snr: Tensor) -> Tensor:
        """The weight at these levels."""
        ...

    def penalty(self, log_snr: Tensor) -> Tensor:
        """What is added to the loss at these levels, where the weighting is itself trained."""
        return torch.zeros_like(log_snr)

    def cover(self, log_snr: Tensor) -> None:
        """Told once, before training: equally likely quantiles of the levels to come."""

    def update(self, log_snr: Tensor, error: Tensor) -> None:
        """Told after each batch: the unweighted error `L_i` at each level."""


def snr(log_snr: Tensor) -> Tensor:
    """`alpha^2 / sigma^2`, one over the noise scale squared."""
    return log_snr.exp()
