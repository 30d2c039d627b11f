"""Weights, tempering, resampling and evidence, against counting and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kedge.noise import Noise
from kedge.particles import (
    effective,
    evidence,
    normalised,
    powered,
    resampled,
    rows,
    surviving,
    systematic,
    tempered,
)

INF = math.inf
f64 = torch.float64


def weights(*shape: int, seed: int = 0, spread: float = 1.5) -> Tensor:
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


def test_effective_sample_size_where_it_is_known() -> None:
    """Equal weights are all worth something, one weight alone is worth itself, k equal ones among zeros are worth k; a
    common factor does not count.
    """
    log_w = torch.tensor([[3.0, 3.0, 3.0, 3.0], [0.0, -INF, -INF, -INF], [700.0, 700.0, -INF, -INF]], dtype=f64)
    torch.testing.assert_close(effective(log_w), torch.tensor([4.0, 1.0, 2.0], dtype=f64), rtol=1e-12, atol=0)
    uneven = torch.tensor([1.0, 2.0, 3.0], dtype=f64)
    torch.testing.assert_close(effective(uneven.log()), torch.tensor(36 / 14, dtype=f64), rtol=1e-12, atol=0)


def test_shares_sum_to_one_and_evidence_is_the_mean_weight() -> None:
    log_w = weights(2, 3, 7)
    torch.testing.assert_close(normalised(log_w).sum(-1), torch.ones(2, 3, dtype=f64))
    torch.testing.assert_close(evidence(log_w), log_w.exp().mean(-1).log(), rtol=1e-12, atol=1e-12)
    assert float(evidence(torch.full((4,), -INF))) == -INF


def test_what_survives_is_the_sample_size_of_equal_weights_and_all_of_a_constant() -> None:
    log_v = weights(3, 50, seed=1)
    equal = torch.zeros(3, 50, dtype=f64)
    torch.testing.assert_close(surviving(equal, log_v), effective(log_v) / 50, rtol=1e-12, atol=0)
    constant = torch.full((3, 50), 4.0, dtype=f64)
    torch.testing.assert_close(surviving(weights(3, 50), constant), torch.ones(3, dtype=f64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_tempered_step_leaves_the_share_that_was_asked_for(share: float) -> None:
    log_w, log_v = weights(5, 200), 10 * weights(5, 200, seed=1)
    d = tempered(log_w, log_v, share, 100.0)
    assert d.std() > 0.1 * d.mean(), "groups have steps of their own"
    torch.testing.assert_close(surviving(log_w, powered(log_v, d)), torch.full((5,), share, dtype=f64))


def test_a_tempered_step_ends_at_its_limit() -> None:
    log_w, log_v = weights(3, 200), 0.01 * weights(3, 200, seed=1)
    limit = torch.tensor([1.0, 0.25, 0.0], dtype=f64)
    torch.testing.assert_close(tempered(log_w, log_v, 0.5, limit), limit, rtol=0, atol=0)


def test_the_impossible_is_removed_by_the_least_power() -> None:
    """Three of four particles have no likelihood: no power leaves half, and the one taken tells the rest not apart."""
    log_v = torch.tensor([-INF, -INF, 5.0, -INF, -INF, -INF, 0.0, -INF], dtype=f64)
    d = tempered(torch.zeros(8, dtype=f64), log_v)
    assert 0 < float(d) < 1e-15
    torch.testing.assert_close(normalised(powered(log_v, d)), torch.tensor([0, 0, 0.5, 0, 0, 0, 0.5, 0], dtype=f64))


def test_resampling_takes_each_as_often_as_its_weight_says() -> None:
    """In every draw the integer below `N w` or the one above; on average `N w`: the count of a particle is
    Bernoulli beyond its integer part, which gives the standard error.
    """
    n, draws = 7, 4000
    log_w = weights(n, spread=1.0).expand(draws, n)
    index = systematic(log_w, Noise.of(3, draws), step=0)
    counts = torch.nn.functional.one_hot(index, n).sum(-2).double()
    expected = n * normalised(log_w[0])
    assert bool((counts >= expected.floor() - 1e-9).all() and (counts <= expected.ceil() + 1e-9).all())
    rest = expected - expected.floor()
    error = (rest * (1 - rest) / draws).sqrt()
    assert bool(((counts.mean(0) - expected).abs() < 4 * error + 1e-9).all())


def test_fewer_may_go_on() -> None:
    n, draws = 9, 4000
    log_w = weights(n).expand(draws, n)
    index = systematic(log_w, Noise.of(4, draws), step=0, count=3)
    assert index.shape == (draws, 3)
    counts = torch.nn.functional.one_hot(index, n).sum(-2).double()
    expected = 3 * normalised(log_w[0])
    rest = expected - expected.floor()
    assert bool(((counts.mean(0) - expected).abs() < 4 * (rest * (1 - rest) / draws).sqrt() + 1e-9).all())


@given(groups=st.integers(1, 5), n=st.integers(1, 9), seed=st.integers(0, 1000))
def test_no_index_crosses_a_group(groups: int, n: int, seed: int) -> None:
    """The rows of a group are its own, and what weighs nothing does not go on."""
    log_w = weights(groups, n, seed=seed, spread=4.0)
    log_w[:, -1] = -INF if n > 1 else 0.0
    index = systematic(log_w, Noise.of(seed, groups), step=2)
    row = rows(index)
    torch.testing.assert_close(row // n, torch.arange(groups).repeat_interleave(n), rtol=0, atol=0)
    torch.testing.assert_close(row.reshape(groups, n) % n, index, rtol=0, atol=0)
    assert bool(log_w.flatten()[row].isfinite().all())


def test_a_group_hears_its_own_noise() -> None:
    log_w = weights(4, 30)
    together = systematic(log_w, Noise.of([5, 6, 7, 8], 4), step=1)
    alone = systematic(log_w[2], Noise.of([7], 1), step=1)
    torch.testing.assert_close(together[2], alone, rtol=0, atol=0)
    assert bool((together[2] != systematic(log_w[2], Noise.of([7], 1), step=2)).any())


def test_only_poor_groups_are_resampled_and_their_evidence_stays() -> None:
    log_w = torch.stack([weights(50, spread=0.1), weights(50, spread=3.0)])
    index, after = resampled(log_w, Noise.of(0, 2), step=0, below=0.5)
    torch.testing.assert_close(index[0], torch.arange(50), rtol=0, atol=0)
    torch.testing.assert_close(after[0], log_w[0], rtol=0, atol=0)
    assert len(index[1].unique()) < 30
    assert float(effective(after[1])) == pytest.approx(50)
    torch.testing.assert_close(evidence(after), evidence(log_w), rtol=1e-12, atol=1e-12)


def test_evidence_is_unbiased_through_weighing_and_resampling() -> None:
    """A filter over an AR(1) chain of three points that weighs each by `e^{a x}`: the mean evidence is
    `E e^{a (x_0 + x_1 + x_2)}`, resampled or not.
    """
    runs, n, a = 4000, 16, 0.8
    noise, particles = Noise.of(11, runs), Noise.of(12, runs * n)
    log_w = torch.zeros(runs, n, dtype=f64)
    x = particles.normal((runs * n,), step=0).reshape(runs, n)
    for k in range(3):
        log_w = log_w + a * x
        index, log_w = resampled(log_w, noise, step=k, below=0.8)
        x = x.gather(1, index)
        # half of the old place stays, so that who was taken matters
        x = 0.6 * x + 0.8 * particles.normal((runs * n,), step=k + 1).reshape(runs, n)
    Z = evidence(log_w).exp()
    # x_k is AR(1) with coefficient .6: the sum of three has the variance 3 + 4 * .6 + 2 * .36
    exact = math.exp(0.5 * a * a * (3 + 4 * 0.6 + 2 * 0.36))
    assert abs(float(Z.mean()) - exact) < 4 * float(Z.std()) / runs**0.5
    assert float(Z.std()) / runs**0.5 < 0.03 * exact, "the test has the power to see three per cent"


@pytest.mark.parametrize("bad", [torch.full((2, 3), -INF), torch.tensor([0.0, math.nan]), torch.tensor([0.0, INF])])
def test_weights_that_say_nothing_are_refused(bad: Tensor) -> None:
    for question in (effective, normalised):
        with pytest.raises(ValueError, match="some weight must be positive"):
            question(bad)


def test_wrong_questions_are_refused() -> None:
    log_w = weights(2, 5)
    with pytest.raises(ValueError, match="2 groups want noise of 2 keys, got 10"):
        systematic(log_w, Noise.of(0, 10), step=0)
    with pytest.raises(ValueError, match="lies between 0 and 1, got 1"):
        tempered(log_w, log_w, share=1.0)
    with pytest.raises(ValueError, match="must be numbers or -inf"):
        tempered(log_w, log_w[0])
    with pytest.raises(ValueError, match=r"\[\*, N\] floating numbers"):
        effective(torch.tensor([1, 2]))
