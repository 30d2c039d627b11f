"""The bound of a diffusion prior, against the exact log-density, and the loss of an amortised posterior."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kedge.align.amortised import PosteriorLoss, negative_elbo
from kedge.exact import GaussianMixture
from kedge.nets.coupling import CouplingFlow
from kedge.noise import Noise
from kedge.paths import GaussianPath, VarianceExploding, VariancePreserving
from kedge.train import AdamW, Tick

f64 = torch.float64
LAW = GaussianMixture([0.3, 0.7], torch.tensor([[1.0, -0.5], [-0.8, 0.4]], dtype=f64), [0.2, 0.1])


@pytest.mark.parametrize("path", [VariancePreserving(), VarianceExploding(0.01, 100.0)], ids=["VP", "VE"])
def test_the_bound_of_the_exact_denoiser_is_the_log_density_itself(path: GaussianPath) -> None:
    """At every x, within 4 standard errors of 10 000 levels."""
    x, n = LAW.sample(4, seeds=0), 10_000
    b = negative_elbo(LAW.denoiser(path), x.repeat_interleave(n, 0), Noise.of(0, 4 * n), step=0).reshape(4, n)
    assert bool(((b.mean(1) + LAW.log_prob(x)).abs() < 4 * b.std(1) / n**0.5).all())
    assert float(b.std(1).max()) / n**0.5 < 0.15


def test_its_gradient_is_minus_the_score() -> None:
    path, n = VariancePreserving(), 40_000
    x = torch.tensor([[0.3, 0.1]], dtype=f64)
    many = x.expand(n, 2).clone().requires_grad_()
    negative_elbo(LAW.denoiser(path), many, Noise.of(0, n), step=0).sum().backward()
    leaf = x.clone().requires_grad_()
    LAW.log_prob(leaf).sum().backward()
    assert many.grad is not None
    assert leaf.grad is not None
    error = many.grad.std(0) / n**0.5
    assert bool(((many.grad.mean(0) + leaf.grad[0]).abs() < 4 * error).all())
    assert bool((error < 0.2 * leaf.grad[0].abs()).all())


def test_another_denoiser_has_a_larger_bound() -> None:
    path, n = VariancePreserving(), 2000
    x = LAW.sample(n, seeds=0)
    wrong = GaussianMixture([1.0], torch.zeros(1, 2, dtype=f64), [0.3])
    ours, other = (negative_elbo(law.denoiser(path), x, Noise.of(0, n), step=0) for law in (LAW, wrong))
    gap = other - ours
    assert float(gap.mean()) > 4 * float(gap.std()) / n**0.5


def likelihood(x: Tensor, y: Tensor) -> Tensor:
    return -0.5 * ((y[:, 0] - x[:, 0]) / 0.5) ** 2


def test_the_loss_is_fit_and_prior_less_entropy() -> None:
    """Of the flow as it begins: `E -log p(y | x) + E -log p(x) - H(N(0, I))` for x ~ N(0, I)."""
    flow, n = CouplingFlow(2, 1).double(), 4000
    prior = GaussianMixture([1.0], torch.zeros(1, 2, dtype=f64), [0.5])
    loss = PosteriorLoss(flow, prior.denoiser(VariancePreserving()), likelihood, draws=2)
    y = torch.full((n, 1), 0.7, dtype=f64)
    values, info = loss(y, Tick(0, 0))
    fit = 0.5 * (0.7**2 + 1) / 0.25
    cross = math.log(2 * math.pi * 0.5) + 1 / 0.5
    entropy = 1 + math.log(2 * math.pi)
    values = values.detach()
    assert abs(float(values.mean()) - (fit + cross - entropy)) < 4 * float(values.std()) / n**0.5
    assert float(values.std()) / n**0.5 < 0.3
    assert float(info["entropy"]) == pytest.approx(entropy)
    assert abs(float(info["fit"]) - fit) < 4 * fit / n**0.5
    torch.testing.assert_close(loss({"y": y}, Tick(0, 0))[0].detach(), values)


def test_the_flow_alone_is_trained() -> None:
    flow = CouplingFlow(2, 1, layers=2, hidden=(8,)).double()
    loss = PosteriorLoss(flow, LAW.denoiser(VariancePreserving()), likelihood)
    part = loss.part(AdamW(1e-2), shadows=())
    assert part.module is flow


def test_what_cannot_be_is_said() -> None:
    path = VariancePreserving(t_max=1e3)
    with pytest.raises(ValueError, match=r"falls to .*; give it a smaller t_max"):
        negative_elbo(LAW.denoiser(path), LAW.sample(3, seeds=0), Noise.of(0, 3), step=0)
    with pytest.raises(ValueError, match="at least one draw"):
        PosteriorLoss(CouplingFlow(2, 1), LAW.denoiser(VariancePreserving()), likelihood, draws=0)
