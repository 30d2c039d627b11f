"""A weight of one, on a named quantity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from kedge.fit.weightings.weighting import Weighting, snr
from kedge.paths.gaussian import GaussianPath

Unit = Literal["clean", "eps", "v", "velocity"]


@dataclass(frozen=True)
class Uniform(Weighting):
    """The plain squared error `of` a quantity. On the error of the clean estimate that is a weight of

    clean     1
    eps       SNR
    v         SNR + 1 / sigma_data^2: of v = alpha z - sigma x on a variance-preserving path, of F on a trig path
              (which makes it EDM's weighting)
    velocity  of dx_t/dt on `path`: plain flow matching
    """

    of: Unit = "v"
    sigma_data: float = 1.0
    path: GaussianPath | None = None

    def __post_init__(self) -> None:
        if self.of not in get_args(Unit):
            raise ValueError(f"unknown quantity of={self.of!r}: one of {', '.join(get_args(Unit))}")
        if self.of == "velocity" and self.path is None:
            raise ValueError('Uniform(of="velocity") needs the path whose velocity it is')

    def __call__(self, log_snr: Tensor) -> Tensor:
        """See the class."""
        if self.of == "clean":
            return torch.ones_like(log_snr)
        if self.of == "eps":
            return snr(log_snr)
        if self.of == "velocity" and self.path is not None:
            return self.path.to_clean("velocity", self.path.time_of(log_snr))[1] ** -2
        return snr(log_snr) + self.sigma_data**-2
