"""Amortised posteriors under a diffusion prior, where they are Gaussian and known for every measurement."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from kedge.align.amortised import PosteriorLoss
from kedge.exact import GaussianMixture
from kedge.nets.coupling import CouplingFlow
from kedge.paths import VariancePreserving
from kedge.train import AdamW, Batches, Trainer

pytestmark = pytest.mark.system

f64 = torch.float64
C = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=f64)
A, S = torch.tensor([[1.0, -0.5]], dtype=f64), 0.4
PRIOR = GaussianMixture([1.0], torch.tensor([[0.3, -0.2]], dtype=f64), C[None])
GAIN = C @ A.mT / (A @ C @ A.mT + S**2)
COVARIANCE = C - GAIN @ A @ C
EACH = 1000


def posterior_mean(y: Tensor) -> Tensor:
    return PRIOR.means[0] + (y - PRIOR.means[0] @ A.mT) @ GAIN.mT


def measured(n: int, seed: int) -> Tensor:
    """`y = A x + s n`, of which x is forgotten."""
    z = torch.randn(n, 1, generator=torch.Generator().manual_seed(seed), dtype=f64)
    return PRIOR.sample(n, seeds=seed) @ A.mT + S * z


def log_likelihood(x: Tensor, y: Tensor) -> Tensor:
    return -0.5 * ((y - x @ A.mT) / S).square().sum(1)


@functools.cache
def trained() -> CouplingFlow:
    torch.manual_seed(0)
    flow = CouplingFlow(2, 1, layers=4, hidden=(24,)).double()
    loss = PosteriorLoss(flow, PRIOR.denoiser(VariancePreserving()), log_likelihood)
    part = loss.part(AdamW(2e-2, warmup=5, decay="linear", weight_decay=0.0), shadows=(), clip=None)
    Trainer([part], Batches(measured(1000, seed=1), 64), 80, progress=False).train()
    return flow


def test_it_samples_the_exact_posteriors_of_new_measurements() -> None:
    """`KL(q || p)` below .05 on average over 10 new y, and in no case above .1."""
    flow, y = trained(), measured(10, seed=2).repeat_interleave(EACH, 0)
    with torch.no_grad():
        x = flow.sample(len(y), y, seeds=3)
        exact = MultivariateNormal(posterior_mean(y), COVARIANCE)
        divergence = (flow.log_prob(x, y) - exact.log_prob(x)).reshape(10, EACH).mean(1)
    assert float(divergence.mean()) < 0.05
    assert float(divergence.max()) < 0.1


def test_its_mean_and_covariance_are_the_exact_ones() -> None:
    """Within .15 of a standard deviation, and within a fifth, of which sampling makes 4 / sqrt(1000) = .13 and .06."""
    flow, y = trained(), measured(10, seed=2).repeat_interleave(EACH, 0)
    centred = (flow.sample(len(y), y, seeds=3).detach() - posterior_mean(y)).reshape(10, EACH, 2)
    std = COVARIANCE.diagonal().sqrt()
    assert float((centred.mean(1) / std).abs().max()) < 0.15 + 4 / EACH**0.5
    whole = centred.flatten(0, 1)
    found = whole.mT @ whole / len(whole)
    assert float(((found - COVARIANCE) / torch.outer(std, std)).abs().max()) < 0.2
