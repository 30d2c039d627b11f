"""A weighting that is trained with the network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kedge.fit.weightings.edm import EDM
from kedge.fit.weightings.weighting import Weighting


class LearnedHead(nn.Module, Weighting):
    """Minimises `J[u] = E[lambda L e^-u + u]` over u, a linear layer on random Fourier features of `ln(scale) / 4`.

    At the optimum `u = log(lambda L)`: every level's weighted loss is 1. The features are fixed, u starts at 0, and its
    parameters are trained by the network's own optimiser.

    Karras et al., "Analyzing and improving the training dynamics of diffusion models", CVPR 2024, eq. 14-16 and 21-22.

    Args:
        base: lambda, the weighting that it starts from and corrects.
        features: the number of Fourier features.
        seed: of the features.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, base: Weighting | None = None, features: int = 128, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.base = EDM() if base is None else base
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(features, generator=generator))
        self.register_buffer("phases", 2 * math.pi * torch.rand(features, generator=generator))
        self.linear = nn.Linear(features, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, log_snr: Tensor) -> Tensor:
        """`lambda e^-u`."""
        return self.base(log_snr) * (-self.penalty(log_snr)).exp()

    def penalty(self, log_snr: Tensor) -> Tensor:
        """`u`."""
        c_noise = (-0.125 * log_snr).to(self.frequencies)[..., None]
        features = math.sqrt(2 / self.frequencies.numel()) * (c_noise * self.frequencies + self.phases).cos()
        return self.linear(features)[..., 0].to(log_snr)
