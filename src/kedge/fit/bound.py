"""The bound on the likelihood that a denoiser's ancestral walk has."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from kedge.denoise import as_estimator
from kedge.elementary import Level
from kedge.kernels import Gaussian
from kedge.noise import Noise, Seeds
from kedge.paths.gaussian import GaussianPath
from kedge.tree import Tree, first_leaf, sum_event, tree_map


@dataclass(frozen=True, eq=False)
class Bound:
    """Nats, one number for each sample; `log p(x) >= -total`, on average over the noise."""

    prior: Tensor
    """`KL(q(x_T | x) | p(x_T))`: what of the data is left at the noisy end."""
    steps: Tensor
    """`sum_t KL(q(x_s | x_t, x) | p(x_s | x_t))`."""
    end: Tensor
    """`-log p(x | x_1)`, by `N(x_hat, sigma^2 / alpha^2)` at the last noised level."""

    @property
    def total(self) -> Tensor:
        """Their sum: the negative evidence lower bound."""
        return self.prior + self.steps + self.end


def bound(denoiser: Any, x: Tree, levels: list[float], seeds: Seeds = None, cond: Any = None) -> Bound:
    """The negative evidence lower bound of samples of data under a walk of `DDPM` over these levels, with fresh noise
    at each of them (Ho, Jain and Abbeel, 2020, eq. 5; Sohl-Dickstein et al., 2015). On the path's own posteriors,

        KL(q(x_s | x_t, x) | p(x_s | x_t)) = (SNR_s - SNR_t) / 2 |x - x_hat(x_t)|^2

    Args:
        denoiser: whose estimates are the walk's.
        x: data, a batch.
        levels: times, noisiest first; a last one at 0 is left out, for the end stands in its place.
        seeds: one number for the call, or one for each sample.
        cond: what the network is conditioned on.
    """
    estimator = as_estimator(denoiser)
    path, told = estimator.path, estimator.prepare(cond)
    noise = Noise.of(seeds, first_leaf(x).shape[0], first_leaf(x).device)
    rows = [t for t in levels if t > 0]

    def estimate(i: int, t: Level) -> tuple[Tree, Tree]:
        x_t = path.perturb(x, t, path.noise(x, noise, i))
        return x_t, estimator.estimate(x_t, t, told).x

    steps = torch.zeros(first_leaf(x).shape[0], dtype=first_leaf(x).dtype, device=first_leaf(x).device)
    for i, (t, s) in enumerate(pairwise(rows)):
        x_t, x_hat = estimate(i, t)
        posterior = path.posterior(t, s)
        steps = steps + sum_event(posterior(x_t, x).kl(posterior(x_t, x_hat)))
    _, x_hat = estimate(len(rows) - 1, rows[-1])
    end = -sum_event(Gaussian(x_hat, path.noise_scale(rows[-1])).log_prob(x))
    return Bound(_prior(path, x, rows[0]), steps, end)


def _prior(path: GaussianPath, x: Tree, t: float) -> Tensor:
    noised = Gaussian(tree_map(lambda leaf: path.alpha(t) * leaf, x), path.sigma(t))
    return sum_event(noised.kl(Gaussian(tree_map(torch.zeros_like, x), path.sigma(path.t_max))))
