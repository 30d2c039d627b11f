"""A denoiser that knows one Gaussian, whose mean and variance are trained: the least of all samplers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from kedge.paths import GaussianPath
from kedge.tree import lead

f64 = torch.float64


class OneGaussian(nn.Module):
    """`E[x | x_t] = m + alpha v (x_t - alpha m) / (alpha^2 v + sigma^2)`."""

    pinned = "noised"

    def __init__(self, path: GaussianPath, mean: float, variance: float) -> None:
        super().__init__()
        self.path = path
        self.mean = nn.Parameter(torch.tensor(mean, dtype=f64))
        self.log_variance = nn.Parameter(torch.tensor(math.log(variance), dtype=f64))

    @property
    def variance(self) -> Tensor:
        return self.log_variance.exp()

    def forward(self, x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        t = torch.as_tensor(t, dtype=f64)
        alpha, sigma = (lead(f(t).reshape(-1), x_t) for f in (self.path.alpha, self.path.sigma))
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)
