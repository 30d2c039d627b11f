"""Importance sampling with proposals fitted by forward KL, beside the Gaussian that reverse KL fits."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from kedge.align.proposals import Mixture, boosted, weighed
from kedge.exact import GaussianMixture

pytestmark = pytest.mark.system

f64 = torch.float64
MODES = torch.tensor([[3.0, 3.0], [-3.0, 3.0], [3.0, -3.0], [-3.0, -3.0]], dtype=f64)
FOUR = GaussianMixture([0.1, 0.2, 0.3, 0.4], MODES, [0.25] * 4)
N = 20_000
BEND, WIDTH = 0.4, 0.4
LOG_Z, VARIANCE = math.log(2 * math.pi * WIDTH), 2 * BEND**2 + WIDTH**2


def banana(x: Tensor) -> Tensor:
    """`x_1 ~ N(0, 1)`, `x_2 ~ N(a (x_1^2 - 1), s^2)`: variances 1 and `2 a^2 + s^2`, and `Z = 2 pi s`."""
    return -0.5 * x[:, 0] ** 2 - 0.5 * ((x[:, 1] - BEND * (x[:, 0] ** 2 - 1)) / WIDTH) ** 2


@functools.cache
def reverse() -> Mixture:
    """The Gaussian of least reverse KL, over the same 1000 normals throughout."""
    mean, root = torch.zeros(2, dtype=f64, requires_grad=True), torch.eye(2, dtype=f64).requires_grad_()
    z = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0), dtype=f64)
    optimiser = torch.optim.LBFGS([mean, root], max_iter=60, line_search_fn="strong_wolfe")

    def cost() -> float:
        optimiser.zero_grad()
        T = root.tril()
        value = -(banana(mean + z @ T.mT).mean() + T.diagonal().abs().log().sum())
        value.backward()
        return float(value.detach())

    optimiser.step(cost)
    T = root.detach().tril()
    return Mixture.one(mean.detach(), T @ T.mT)


@functools.cache
def forward() -> Mixture:
    """Warm from the reverse fit, widened, with heavy tails."""
    warm = reverse()
    return boosted(Mixture.one(warm.means[0], 2 * warm.scales[0], 5.0), banana, 5, dof=4.0, seeds=0)


def test_it_is_worth_twice_the_draws_of_the_reverse_fit_and_more() -> None:
    ours, theirs = weighed(forward(), banana, N, seeds=5), weighed(reverse(), banana, N, seeds=5)
    assert float(ours.ess) > 0.6 * N
    assert float(ours.ess) > 2 * float(theirs.ess)
    error = float(ours.chi_square) ** 0.5 / N**0.5
    assert abs(float(ours.log_z) - LOG_Z) < 4 * error


def test_it_knows_the_spread_that_the_reverse_fit_underestimates() -> None:
    """Variances within 5 %, where those of the reverse fit are a fifth too small and worse."""
    ours = weighed(forward(), banana, 4 * N, seeds=5)
    variance = ours.mean(lambda x: x**2) - ours.mean() ** 2
    exact = torch.tensor([1.0, VARIANCE], dtype=f64)
    assert float((variance / exact - 1).abs().max()) < 0.05
    assert bool((reverse().scales[0].diagonal() < 0.8 * exact).all())


def test_boosting_finds_all_four_modes() -> None:
    broad = Mixture.one(torch.zeros(2, dtype=f64), 4 * torch.eye(2, dtype=f64), 5.0)
    for seed in (0, 100, 200):
        made = weighed(boosted(broad, FOUR.log_prob, 4, n=1000, seeds=seed), FOUR.log_prob, 4000, seeds=seed)
        assert float(made.ess) > 0.8 * 4000
        near = torch.cdist(made.x, MODES).argmin(1)
        share = made.mean(lambda x, near=near: torch.nn.functional.one_hot(near, 4).double())
        error = (FOUR.weights * (1 - FOUR.weights) / made.ess).sqrt()
        assert bool(((share - FOUR.weights).abs() < 4 * error).all())
