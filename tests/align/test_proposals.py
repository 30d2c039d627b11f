"""Mixtures as proposals: their law, the step that improves them, the component that is added, what they estimate."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from kedge.align.proposals import Mixture, Weighted, added, boosted, matched, refined, weighed
from kedge.exact import GaussianMixture

f64 = torch.float64
INF = math.inf
GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(3, 2, 2, generator=GENERATOR, dtype=f64)
THREE = Mixture(
    torch.tensor([1.0, 2.0, 1.0], dtype=f64),
    torch.randn(3, 2, generator=GENERATOR, dtype=f64),
    A @ A.mT + 0.3 * torch.eye(2, dtype=f64),
    torch.tensor([INF, 4.0, 9.0], dtype=f64),
)
MODES = torch.tensor([[3.0, 3.0], [-3.0, 3.0], [3.0, -3.0], [-3.0, -3.0]], dtype=f64)
FOUR = GaussianMixture([0.1, 0.2, 0.3, 0.4], MODES, [0.25] * 4)
BROAD = Mixture.one(torch.zeros(2, dtype=f64), 4 * torch.eye(2, dtype=f64), 5.0)


def test_its_density_is_scipys() -> None:
    x = 3 * torch.randn(40, 2, generator=torch.Generator().manual_seed(1), dtype=f64)
    shares = np.array([0.25, 0.5, 0.25])
    m, S = THREE.means.numpy(), THREE.scales.numpy()
    parts = [
        stats.multivariate_normal(m[0], S[0]).pdf(x.numpy()),
        *(stats.multivariate_t(m[k], S[k], df=nu).pdf(x.numpy()) for k, nu in ((1, 4), (2, 9))),
    ]
    expected = torch.from_numpy(np.log(shares @ np.stack(parts)))
    torch.testing.assert_close(THREE.log_prob(x), expected, rtol=1e-10, atol=1e-10)


def test_it_samples_its_density() -> None:
    """Each component's share, and the law of each entry of a sample (Kolmogorov and Smirnov, p > .01)."""
    x = THREE.sample(20_000, seeds=3)
    m, S = THREE.means.numpy(), THREE.scales.numpy()
    for i in range(2):

        def below(q: np.ndarray, i: int = i) -> np.ndarray:
            first = 0.25 * stats.norm.cdf(q, m[0, i], S[0, i, i] ** 0.5)
            return first + sum(
                w * stats.t.cdf(q, nu, m[k, i], S[k, i, i] ** 0.5) for k, w, nu in ((1, 0.5, 4), (2, 0.25, 9))
            )

        assert stats.kstest(x[:, i].numpy(), below).pvalue > 0.01
    again = THREE.sample(3, seeds=[5, 6, 7])
    torch.testing.assert_close(THREE.sample(1, seeds=[6])[0], again[1], rtol=0, atol=0)


def test_mixed_is_the_mixture_of_the_two() -> None:
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=f64)
    expected = (0.7 * THREE.log_prob(x).exp() + 0.3 * BROAD.log_prob(x).exp()).log()
    torch.testing.assert_close(THREE.mixed(BROAD, 0.3).log_prob(x), expected, rtol=1e-12, atol=1e-12)


def square(side: int = 161, reach: float = 8.0) -> Tensor:
    """A grid `[side^2, 2]`, on which sums are integrals of Gaussians to rounding."""
    line = torch.linspace(-reach, reach, side, dtype=f64)
    return torch.cartesian_prod(line, line)


def test_one_step_is_exact_for_a_gaussian() -> None:
    """Its moments by quadrature are the mean exactly and the covariance but for the three draws' worth of the old."""
    target = GaussianMixture([1.0], torch.tensor([[1.0, -0.5]], dtype=f64), torch.tensor([[[0.5, 0.3], [0.3, 0.8]]]))
    x = square()
    W = target.log_prob(x).softmax(0)
    q = matched(Mixture.one(torch.zeros(2, dtype=f64), 2 * torch.eye(2, dtype=f64)), x, W)
    torch.testing.assert_close(q.means[0], target.means[0], rtol=0, atol=1e-9)
    kept = 3 / (1 / W.square().sum() + 3)
    mixed = (1 - kept) * target.covariances[0] + kept * 2 * torch.eye(2, dtype=f64)
    torch.testing.assert_close(q.scales[0], mixed, rtol=0, atol=1e-9)
    assert kept < 0.005


def test_every_step_lowers_the_forward_divergence() -> None:
    """By quadrature, toward a skewed target from afar, for Gaussians and t's alike."""
    x = square()
    W = FOUR.log_prob(x).softmax(0)
    q, costs = THREE, list[float]()
    for _ in range(30):
        costs.append(-float(W @ q.log_prob(x)))
        q = matched(q, x, W)
    assert all(b < a for a, b in pairwise(costs[:13]))
    assert costs[-1] < costs[0] - 0.5


def test_a_component_that_nothing_speaks_for_stays() -> None:
    far = Mixture(torch.ones(2, dtype=f64), torch.tensor([[0.0, 0.0], [500.0, 0.0]], dtype=f64),
                  torch.eye(2, dtype=f64).expand(2, 2, 2), torch.tensor([INF, INF], dtype=f64))  # fmt: skip
    x = BROAD.sample(100, seeds=0)
    q = matched(far, x, torch.full((100,), 0.01, dtype=f64))
    torch.testing.assert_close(q.means[1], far.means[1])
    torch.testing.assert_close(q.scales[1], far.scales[1])
    assert bool(q.log_prob(x).isfinite().all())


def test_what_is_added_takes_up_what_is_left() -> None:
    """q knows the first of two modes: the new component finds the other, and its share."""
    target = GaussianMixture([0.7, 0.3], MODES[:2], [0.25, 0.25])
    q = Mixture.one(MODES[0], 0.25 * torch.eye(2, dtype=f64))
    draws = weighed(q.mixed(BROAD, 0.5), target.log_prob, 4000, seeds=0)
    made = added(q, draws, draws.log_w.softmax(0))
    share = made.weights / made.weights.sum()
    n = float(draws.ess)
    torch.testing.assert_close(made.means[0], q.means[0], rtol=0, atol=0)
    assert abs(float(share[1]) - 0.3) < 4 * (0.3 * 0.7 / n) ** 0.5
    assert float((made.means[1] - MODES[1]).abs().max()) < 4 * (0.25 / (0.3 * n)) ** 0.5
    assert float((made.scales[1] - 0.25 * torch.eye(2, dtype=f64)).abs().max()) < 4 * 0.25 * (2 / (0.3 * n)) ** 0.5


def test_boosting_finds_the_modes() -> None:
    made = boosted(BROAD, FOUR.log_prob, 4, n=1000, seeds=0)
    assert len(made.weights) == 5
    x = made.sample(20_000, seeds=9)
    inside = (torch.cdist(x, MODES) < 1.5).double().mean(0)
    # the share of a mode's own mass within 3 of its standard deviations, in two dimensions
    torch.testing.assert_close(inside, FOUR.weights * (1 - math.exp(-4.5)), rtol=0.2, atol=0)


def test_estimates_are_weighed() -> None:
    """Z without bias and the mean, each within 4 standard errors over 100 runs; the sample size and chi^2 in closed
    form: for Gaussians of one mean and variances s < v, `1 + chi^2 = v / (s sqrt(2 v / s - 1))` an entry.
    """
    target = GaussianMixture([1.0], torch.zeros(1, 1, dtype=f64), [0.5])
    q = Mixture.one(torch.zeros(1, dtype=f64), torch.eye(1, dtype=f64))
    runs = [weighed(q, lambda x: target.log_prob(x) + 0.4, 100, seeds=k) for k in range(100)]
    for found, exact in (
        (torch.stack([run.log_z.exp() for run in runs]), math.exp(0.4)),
        (torch.stack([run.mean() for run in runs])[:, 0], 0.0),
    ):
        assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / 10
    long = weighed(q, target.log_prob, 50_000, seeds=0)
    exact = 1 / (0.5 * 3**0.5)
    assert float(long.chi_square) == pytest.approx(exact - 1, rel=0.03)
    assert float(long.ess) == pytest.approx(50_000 / exact, rel=0.03)


def test_a_defensive_share_keeps_what_the_start_covers() -> None:
    """From a proposal that has lost a mode, draws of the start bring it back; without them it stays lost."""
    narrow = Mixture.one(MODES[3], 0.25 * torch.eye(2, dtype=f64)).mixed(
        Mixture.one(MODES[3] + 0.1, 0.25 * torch.eye(2, dtype=f64)), 0.5
    )
    two = GaussianMixture([0.5, 0.5], MODES[[0, 3]], [0.25, 0.25])
    with_start = refined(narrow, two.log_prob, rounds=12, n=500, defensive=0.3, start=BROAD)
    without = refined(narrow, two.log_prob, rounds=12, n=500, defensive=0.0)
    assert float((with_start.sample(4000, seeds=1)[:, 0] > 0).double().mean()) == pytest.approx(0.5, abs=0.1)
    assert float((without.sample(4000, seeds=1)[:, 0] > 0).double().mean()) < 0.01


def test_what_cannot_be_is_said() -> None:
    one, eye = torch.ones(1, dtype=f64), torch.eye(2, dtype=f64)
    with pytest.raises(ValueError, match=r"scales \[1, 2, 2\]"):
        Mixture(one, torch.zeros(1, 2, dtype=f64), eye, one)
    with pytest.raises(ValueError, match="whole numbers from 1"):
        Mixture.one(torch.zeros(2, dtype=f64), eye, 2.5)
    with pytest.raises(ValueError, match=r"log-density of 10 points is \[10\], this one is \[10, 2\]"):
        weighed(BROAD, lambda x: x, 10)


def test_nothing_is_added_where_nothing_is_left() -> None:
    """Of a target that q is already, no draw has an excess."""
    q = Mixture.one(torch.zeros(2, dtype=f64), torch.eye(2, dtype=f64))
    x = q.sample(100, seeds=0)
    draws = Weighted(x, q.log_prob(x), q.log_prob(x))
    assert len(added(q, draws, torch.full((100,), 0.0099, dtype=f64)).weights) == 1
