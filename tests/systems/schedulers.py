"""Schedulers of diffusers on any levels, in float64, asked for the exact noise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor

from kedge.paths import GaussianPath
from walk.oracles import f64

PEERS: Any = diffusers
"""Its own annotations say less than it exports."""


def levels_of(path: GaussianPath, scales: list[float]) -> list[float]:
    """The path's times at these noise scales."""
    return [path.time_at(scale) for scale in scales]


def walked(make: Callable[[], Any], scales: list[float], denoiser: Any, x: Tensor) -> Tensor:
    """On the variance-preserving path, from the first noise scale to the last, which is above 0. What a scheduler warns
    of is not of what it computes.
    """
    was = torch.get_default_dtype()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make()
        scheduler.set_timesteps(len(scales) - 1)
        scheduler.sigmas = torch.tensor(scales, dtype=f64)
        scheduler.timesteps = torch.arange(len(scales) - 1, 0, -1)
        torch.set_default_dtype(f64)
        try:
            for scale, k in zip(scales, scheduler.timesteps, strict=False):
                x = scheduler.step(noise_of(denoiser, x, denoiser.path.time_at(scale)), k, x).prev_sample
            return x
        finally:
            torch.set_default_dtype(was)


def noise_of(denoiser: Any, x: Tensor, t: float) -> Tensor:
    """`(x_t - alpha x_hat) / sigma`."""
    return (x - denoiser.path.alpha(t) * denoiser(x, t)) / denoiser.path.sigma(t)


def falling(high: float, low: float, n: int, power: float = 3.0) -> list[float]:
    """n + 1 noise scales, in steps of unequal length by any measure."""
    ends = high ** (1 / power), low ** (1 / power)
    return [(ends[0] + i / n * (ends[1] - ends[0])) ** power for i in range(n + 1)]
