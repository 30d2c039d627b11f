"""The discrete process in its exact form: each identity of a text-book, on the path of a table."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import kedge
from kedge.exact import GaussianMixture
from kedge.fit import bound
from kedge.paths import Tabled, VariancePreserving
from kedge.walk.grids import LogSNR, Uniform
from kedge.walk.solvers import DDIM, DDPM
from systems.schedulers import PEERS
from walk.oracles import Factorised, f64, mixture, normals, start

pytestmark = pytest.mark.system

T = 100
PATH = Tabled.linear(T, 1e-3, 0.2)
BETA = torch.linspace(1e-3, 0.2, T, dtype=f64)
ABAR = (1 - BETA).cumprod(0)


def time(k: int) -> float:
    """Of step k = 1 ... T."""
    return k / T


def test_the_tables() -> None:
    for k in (1, 2, 50, T):
        assert PATH.alpha(time(k)) ** 2 == pytest.approx(float(ABAR[k - 1]), rel=1e-12)
        assert PATH.sigma(time(k)) ** 2 == pytest.approx(1 - float(ABAR[k - 1]), rel=1e-12)
    scheduler = PEERS.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    cosine = Tabled.cosine()
    for k in (1, 10, 500, 900):
        assert cosine.alpha(k / 1000) ** 2 == pytest.approx(float(scheduler.alphas_cumprod[k - 1]), rel=1e-4)
    assert Tabled.linear().alpha(1.0) ** 2 == pytest.approx(float(PEERS.DDPMScheduler().alphas_cumprod[-1]), rel=1e-3)


@pytest.mark.parametrize("k", [2, 40, T])
def test_the_posterior_is_bayes_rule(k: int) -> None:
    """`q(x_{t-1} | x_t, x_0)` on a grid of one dimension: the likelihood times the prior, normalised."""
    x_0, x_t = 0.7, -0.4
    grid = torch.linspace(-6, 6, 20_001, dtype=f64)
    a, abar = 1 - float(BETA[k - 1]), float(ABAR[k - 2])
    log_p = -((x_t - math.sqrt(a) * grid) ** 2) / (2 * (1 - a)) - (grid - math.sqrt(abar) * x_0) ** 2 / (2 * (1 - abar))
    p = log_p.softmax(0)
    mean = float((p * grid).sum())
    std = math.sqrt(float((p * (grid - mean) ** 2).sum()))
    kernel: Any = PATH.down(
        torch.full((1, 1), x_t, dtype=f64), torch.full((1, 1), x_0, dtype=f64), time(k), time(k - 1)
    )
    assert float(kernel.mean) == pytest.approx(mean, abs=1e-9)
    assert float(kernel.std) == pytest.approx(std, rel=1e-9)


def test_generation_is_the_textbooks() -> None:
    """`x_{t-1} = (x_t - (1 - a_t) / sqrt(1 - abar_t) eps) / sqrt(a_t) + sqrt(beta~_t) z`, and no noise in the last."""
    D = mixture().denoiser(PATH)
    x = expected = start(PATH, 1.0, (4, 2))
    noise = normals(3, (4, 2), T)
    for i, k in enumerate(range(T, 0, -1)):
        a, abar = 1 - float(BETA[k - 1]), float(ABAR[k - 1])
        before = float(ABAR[k - 2]) if k > 1 else 1.0
        eps = (expected - math.sqrt(abar) * D(expected, time(k))) / math.sqrt(1 - abar)
        expected = (expected - (1 - a) / math.sqrt(1 - abar) * eps) / math.sqrt(a)
        expected = expected + math.sqrt((1 - before) / (1 - abar) * (1 - a)) * noise[i]
    for solver in (DDPM(), DDIM(1.0)):
        torch.testing.assert_close(kedge.sample(D, x, Uniform(T), solver, seeds=3), expected, rtol=0, atol=1e-9)


def test_a_step_has_the_mean_of_diffusers() -> None:
    scheduler = PEERS.DDPMScheduler(T, trained_betas=BETA.tolist(), clip_sample=False)
    scheduler.alphas_cumprod, scheduler.alphas, scheduler.betas = ABAR, 1 - BETA, BETA
    x, D, k = start(PATH, time(60), (4, 2)), Factorised(PATH), 60
    eps = (x - PATH.alpha(time(k)) * D(x, time(k))) / PATH.sigma(time(k))
    kernel: Any = PATH.down(x, D(x, time(k)), time(k), time(k - 1))
    drawn = scheduler.step(eps, k - 1, x, generator=torch.Generator().manual_seed(0)).prev_sample
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=f64)
    torch.testing.assert_close(kernel.mean + kernel.std * z, drawn, rtol=0, atol=1e-10)


def test_the_bound_closes_on_the_likelihood() -> None:
    """Of Gaussian data with the exact estimates. Its gap falls as 1 / T: nothing is left of it beyond."""
    law = GaussianMixture([1.0], torch.zeros(1, 3, dtype=f64), [0.5])
    x, D = law.sample(4000, seeds=0), law.denoiser(VariancePreserving())
    exact = float(-law.log_prob(x).mean())
    gaps: list[float] = []
    for n in (20, 80):
        levels = [float(t) for t in LogSNR(n, scale_min=0.01).levels(D.path).rows()]
        gaps.append(float(bound(D, x, levels, seeds=1).total.mean()) - exact)
    assert gaps[0] > gaps[1] > 0
    assert 3 < gaps[0] / gaps[1] < 6


def test_the_bounds_steps_are_weighted_errors() -> None:
    """`(SNR_s - SNR_t) / 2 |x - x_hat|^2`; a denoiser that is off is told so."""
    law = GaussianMixture([1.0], torch.zeros(1, 3, dtype=f64), [0.5])
    x, D = law.sample(5, seeds=0), Off()
    found = bound(D, x, [1.0, 0.5, 0.2, 0.0], seeds=1)
    snr = [math.exp(PATH.log_snr(t)) for t in (1.0, 0.5, 0.2)]
    expected = sum((b - a) / 2 for a, b in pairwise(snr)) * (x - 0.1).square().sum(1)
    torch.testing.assert_close(found.steps, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.total, found.prior + found.steps + found.end)


class Off:
    """It says .1 of everything."""

    path = PATH

    def __call__(self, x: Tensor, t: Any) -> Tensor:
        return torch.full_like(x, 0.1)
