"""The variational bound of a denoiser over a grid: how many nats data cost, whatever the path."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from kedge.denoise import as_estimator
from kedge.matrix import Matrix
from kedge.noise import Noise, Seeds
from kedge.slots import BOUND_SLOT
from kedge.tree import lead


def variational_bound(
    denoiser: Any, x: Tensor, levels: tuple[float, ...], cond: Any = None, seeds: Seeds = None
) -> Tensor:
    """`[B]` upper bounds of `-log p(x)` in nats, from one draw of the noise at each level, with gradients to all:

        |alpha_T x|^2 / (2 sigma_T^2)
        + sum_i (SNR_{i+1} - SNR_i) |x - x_hat(x_i)|^2 / 2
        + ((1 + log 2 pi) D - log det SNR_0) / 2

    the prior's divergence, that of each ancestral step, and the data given the last level, `N(x_t / alpha, 1 / SNR)`,
    in the mean over its noise. On a path of matrices SNR is `M^T C^-1 M` and its differences are quadratic forms, so a
    path with parameters is trained on this bound, and on no loss with other weights. Kingma et al., "Variational
    diffusion models", NeurIPS 2021, eq. 11-13.

    Args:
        denoiser: on its path.
        x: data, whose last axis is a matrix path's.
        levels: numbers above 0, noisiest first.
        cond: what it hears.
        seeds: of the noise.
    """
    estimator = as_estimator(denoiser)
    path, noise = estimator.path, Noise.of(seeds, x.shape[0], x.device)
    if len(levels) < 2 or any(t <= s for t, s in pairwise(levels)) or levels[-1] <= 0:
        raise ValueError(f"a bound takes two levels or more, from the noisiest down, above 0; got {levels}")
    told = [path.information(t) for t in levels]
    total = 0.5 * _quadratic(told[0], x) + _last(told[-1], x)
    for i, t in enumerate(levels[:-1]):
        z = noise.normal(x.shape, i, BOUND_SLOT, x.dtype)
        x_hat = cast(Tensor, estimator.estimate(path.perturb(x, t, z), t, cond).x)
        total = total + 0.5 * _quadratic(told[i + 1] - told[i], x - x_hat)
    return total


def _last(J: Any, x: Tensor) -> Tensor | float:
    """What data cost, given the last level."""
    if isinstance(J, Matrix):
        log_det = torch.linalg.slogdet(J.values)[1] * (x[0].numel() // J.values.shape[-1])
    else:
        log_det = math.log(J) * x[0].numel()
    return 0.5 * (x[0].numel() * (1 + math.log(2 * math.pi)) - log_det)


def _quadratic(J: Any, e: Tensor) -> Tensor:
    """`e^T J e`, a sample."""
    Je = J(e) if isinstance(J, Matrix) else (lead(J, e) if isinstance(J, Tensor) else J) * e
    return (e * Je).flatten(1).sum(1)
