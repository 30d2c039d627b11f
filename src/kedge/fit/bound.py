"""The variational bound of a denoiser over a grid: how many nats data cost, whatever the path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from kedge.denoise import as_estimator
from kedge.matrix import Matrix
from kedge.noise import Noise, Seeds
from kedge.slots import BOUND_SLOT
from kedge.tree import lead


@dataclass(frozen=True, eq=False)
class Bound:
    """Nats, one number for each sample; `-log p(x) <= total`, on average over the noise."""

    prior: Tensor
    """`KL(q(x_T | x) | N(0, sigma_T^2))`: what of the data is left at the noisy end."""
    steps: Tensor
    """`sum_t KL(q(x_s | x_t, x) | p(x_s | x_t))`, of each step of `DDPM`."""
    end: Tensor
    """`-log p(x | x_0)`, of the data given the last noised level."""

    @property
    def total(self) -> Tensor:
        """Their sum: the negative evidence lower bound."""
        return self.prior + self.steps + self.end


def bound(denoiser: Any, x: Tensor, levels: Sequence[float], seeds: Seeds = None, cond: Any = None) -> Bound:
    """The negative evidence lower bound of data under a walk of `DDPM` over these levels, from one draw of the noise at
    each of them, with gradients to all:

        prior  |alpha_T x|^2 / (2 sigma_T^2)
        steps  sum_i (SNR_{i+1} - SNR_i) |x - x_hat(x_i)|^2 / 2
        end    ((1 + log 2 pi) D - log det SNR_0) / 2

    the last one being that of `N(x_t / alpha, 1 / SNR)` in the mean over its noise. On a path of matrices SNR is
    `M^T C^-1 M` and its differences are quadratic forms, so a path with parameters is trained on this bound, and on no
    loss with other weights. Ho, Jain and Abbeel, 2020, eq. 5; Kingma et al., "Variational diffusion models", NeurIPS
    2021, eq. 11-13.

    Args:
        denoiser: on its path.
        x: data, whose last axis is a matrix path's.
        levels: times, noisiest first; a last one at 0 is left out, for the end stands in its place.
        seeds: of the noise.
        cond: what it hears.
    """
    estimator = as_estimator(denoiser)
    path, noise, heard = estimator.path, Noise.of(seeds, x.shape[0], x.device), estimator.prepare(cond)
    rows = list(levels[:-1] if len(levels) and levels[-1] == 0 else levels)
    if len(rows) < 2 or any(t <= s for t, s in pairwise(rows)) or rows[-1] <= 0:
        raise ValueError(f"a bound takes two levels or more above 0, from the noisiest down; got {levels}")
    told = [path.information(t) for t in rows]
    steps = x.new_zeros(x.shape[0])
    for i, t in enumerate(rows[:-1]):
        z = noise.normal(x.shape, i, BOUND_SLOT, x.dtype)
        x_hat = cast(Tensor, estimator.estimate(path.perturb(x, t, z), t, heard).x)
        steps = steps + 0.5 * _quadratic(told[i + 1] - told[i], x - x_hat)
    return Bound(0.5 * _quadratic(told[0], x), steps, x.new_zeros(x.shape[0]) + _last(told[-1], x))


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
