"""The paths that a statement about every path is tested on, and their formulas to fifty digits."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

from kedge.paths import Cosine, GaussianPath, Rectified, Trig, VarianceExploding, VariancePreserving

PATHS: dict[str, GaussianPath] = {
    "VariancePreserving": VariancePreserving(),
    "VariancePreserving-constant": VariancePreserving(beta_min=3.0, beta_max=3.0),
    "Cosine": Cosine(),
    "Cosine-no-offset": Cosine(offset=0.0),
    "VarianceExploding": VarianceExploding(),
    "Rectified": Rectified(),
    "Trig": Trig(),
    "Trig-half": Trig(sigma_data=0.5),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
mp.dps = 50


def alpha(path: GaussianPath, t: float) -> Any:
    """alpha as its paper defines it, at any precision."""
    time = mpf(t)
    match path:
        case VariancePreserving(beta_min=low, beta_max=high):
            return mpmath.exp(-(low * time + (mpf(high) - mpf(low)) * time**2 / 2) / 2)
        case Cosine(offset=offset):

            def angle(t: Any) -> Any:
                return (t + mpf(offset)) / (1 + mpf(offset)) * mpmath.pi / 2

            return mpmath.cos(angle(time)) / mpmath.cos(angle(mpf(0)))
        case Rectified():
            return 1 - time
        case Trig():
            return mpmath.cos(time)
        case _:
            return mpf(1)


def sigma(path: GaussianPath, t: float) -> Any:
    """sigma as its paper defines it, at any precision."""
    time = mpf(t)
    match path:
        case VariancePreserving() | Cosine():
            return mpmath.sqrt(1 - alpha(path, t) ** 2)
        case Trig(sigma_data=sigma_data):
            return sigma_data * mpmath.sin(time)
        case _:
            return time


def times(path: GaussianPath, n: int = 24) -> list[float]:
    """Times from far below t_min to t_max: evenly in their logarithm, and more near the end."""
    low, high = 1e-3 * path.t_min, path.t_max
    inner = [low * (high / low) ** (i / n) for i in range(n)]
    return [*inner, *(high * (1 - 10.0**-k) for k in range(1, 6)), high]


def levels(path: GaussianPath, n: int = 24) -> Tensor:
    """The same as a tensor."""
    return torch.tensor(times(path, n), dtype=torch.float64)


def between(path: GaussianPath, share: float) -> float:
    """The time at a share of the way from t_min to t_max in the logarithm of the noise scale."""
    low, high = path.log_snr(path.t_min), path.log_snr(path.t_max)
    t = path.time_of(low + share * (high - low))
    return min(max(t, path.t_min), path.t_max) if math.isfinite(t) else path.t_max
