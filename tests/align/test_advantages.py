"""Advantages: each piece against what it is to be, by brute force."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kedge import Noise, Walk, grids, solvers
from kedge.align import (
    Clamp,
    Extremes,
    Near,
    Novel,
    Ranks,
    Recorded,
    Relative,
    SameDirection,
    Standard,
    Varied,
    advantages,
    recorded,
)
from kedge.align.advantages import Measure, contributions, gains_beside, gains_in_turn, vendi
from kedge.paths import Trig

f64 = torch.float64
REWARD = torch.tensor([3.0, 1.0, 2.0, 10.0, 10.0, 40.0], dtype=f64)
GROUP = torch.tensor([0, 0, 0, 1, 1, 1])


class Still:
    path = Trig(1.0)

    def __call__(self, x: Tensor, t: Any) -> Tensor:
        return 0 * x


def total(x: Any, cond: Any = None) -> Tensor:
    return x.sum(1)


def batch(x: Tensor | None = None, **fields: Any) -> Recorded:
    """Whatever was recorded, with these ends and rewards."""
    x = Noise.of(0, 6).normal((6, 2), 0) if x is None else x
    made = recorded(Walk(Still(), solvers.DDPM(), grids.LogSNR(2)), x, total, seeds=1)
    made.record.x[-1] = x
    return replace(made, **({"reward": REWARD, "group": GROUP} | fields))


def test_the_mean_of_the_group_is_taken_off() -> None:
    assert advantages([Relative()], batch()).tolist() == [1, -1, 0, -10, -10, 20]
    assert advantages([Relative(others=True)], batch()).tolist() == [1.5, -1.5, 0, -15, -15, 30]
    torch.testing.assert_close(advantages([Relative()], batch(group=None)), REWARD - 11)


def test_leaving_itself_out_is_a_rescaling_of_the_centred_reward() -> None:
    """`K / (K - 1)` times; both sum to 0 in each group."""
    one, other = advantages([Relative()], batch()), advantages([Relative(others=True)], batch())
    torch.testing.assert_close(other, 1.5 * one, rtol=1e-12, atol=0)
    assert other[:3].sum().abs() < 1e-12


def test_scaling_within_the_group_or_the_batch() -> None:
    found = advantages([Relative(), Standard()], batch())
    for index in (slice(0, 3), slice(3, 6)):
        expected = (REWARD[index] - REWARD[index].mean()) / REWARD[index].std(correction=0)
        torch.testing.assert_close(found[index], expected, rtol=1e-6, atol=0)
    whole = advantages([Relative(), Standard("batch")], batch())
    centred = REWARD - torch.tensor([2.0] * 3 + [20.0] * 3, dtype=f64)
    torch.testing.assert_close(whole, centred / centred.std(correction=0), rtol=1e-6, atol=0)
    even = advantages([Relative(), Standard()], batch(reward=torch.full((6,), 0.1, dtype=f64)))
    assert even.abs().max() < 1e-6, "rewards that are all the same say nothing"


def test_ranks_limits_and_extremes() -> None:
    assert advantages([Ranks()], batch()).tolist() == [1, -1, 0, -0.5, -0.5, 1]
    assert advantages([Relative(), Clamp(5.0)], batch()).tolist() == [1, -1, 0, -5, -5, 5]
    assert advantages([Relative(), Extremes(0.5)], batch()).tolist() == [1, -1, 0, -10, 0, 20]
    assert advantages([Relative(), Extremes(15.0)], batch()).tolist() == [0, 0, 0, 0, 0, 20]


@pytest.mark.parametrize(
    "piece", [Relative(), Relative(others=True), Standard(), Ranks(), Extremes(0.0), Varied(), Novel()]
)
def test_what_failed_is_as_if_it_were_not_there(piece: Any) -> None:
    whole = batch()
    keep = torch.tensor([0, 1, 3, 4, 5])
    counts = torch.ones(6, dtype=torch.bool)
    counts[2] = False
    ends = whole.record.x[-1]
    assert isinstance(ends, Tensor)
    small = replace(whole, reward=REWARD[keep], group=GROUP[keep])
    with_failure = replace(whole, counts=counts, reward=torch.where(counts, REWARD, 0.0))
    found = advantages([piece], with_failure)
    assert float(advantages([piece, more], with_failure)[2]) == 0
    small.record.x[-1] = ends[keep]
    torch.testing.assert_close(found[keep], advantages([piece], small), rtol=1e-12, atol=1e-12)
    assert float(found[2]) == 0


def more(value: Tensor, batch: Recorded) -> Tensor:
    return value + 1


def variety(K: Tensor, measure: Measure) -> Tensor:
    """By definition."""
    n = len(K)
    if measure == "dissimilarity":
        return 1 - K.sum() / n**2
    if measure == "log-det":
        return torch.linalg.slogdet(torch.eye(n, dtype=K.dtype) + K)[1]
    share = torch.linalg.eigvalsh(K / n).clamp(min=1e-300)
    return (-(share * share.log()).sum()).exp()


@pytest.mark.parametrize("measure", ["dissimilarity", "log-det", "vendi"])
def test_contributions_are_what_is_lost_without_a_sample(measure: Measure) -> None:
    x = Noise.of(0, 7).normal((7, 2), 0)
    K = Near(0.7)(x)
    rest = [torch.tensor([j for j in range(7) if j != i]) for i in range(7)]
    expected = torch.stack([variety(K, measure) - variety(K[r][:, r], measure) for r in rest])
    torch.testing.assert_close(contributions(K, measure), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("measure", ["dissimilarity", "log-det", "vendi"])
def test_the_rarer_the_more_it_adds(measure: Measure) -> None:
    """Four of one kind, two of another, one of a third."""
    kind = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    gain = contributions((kind[:, None] == kind).double(), measure)
    assert float(gain[6]) > float(gain[4]) > float(gain[0])
    torch.testing.assert_close(gain[:4], gain[:1].expand(4), rtol=1e-9, atol=1e-12)


def test_the_effective_number_of_samples() -> None:
    assert float(vendi(torch.eye(5, dtype=f64))) == pytest.approx(5)
    assert float(vendi(torch.ones(5, 5, dtype=f64))) == pytest.approx(1)


def test_variety_is_added_scaled_within_the_group_and_among_the_good_only() -> None:
    made = batch()
    gain = advantages([Varied(weight=0.5)], made) - REWARD
    for index in (slice(0, 3), slice(3, 6)):
        assert gain[index].sum().abs() < 1e-9
        assert float(gain[index].pow(2).mean().sqrt()) == pytest.approx(0.5, rel=1e-4)
    among = advantages([Varied(weight=0.5, good=10.0)], made) - REWARD
    assert among[:3].abs().max() == 0, "what is no good gains nothing by being different"
    torch.testing.assert_close(among[3:], gain[3:])


def test_gains_in_turn_are_differences_of_log_determinants() -> None:
    x = Noise.of(1, 6).normal((6, 2), 0)
    L = Near(0.7)(x) + 0.01 * torch.eye(6, dtype=f64)
    partial = torch.stack([torch.zeros((), dtype=f64), *(torch.linalg.slogdet(L[:k, :k])[1] for k in range(1, 7))])
    torch.testing.assert_close(gains_in_turn(Near(0.7)(x), 0.01), partial.diff(), rtol=1e-9, atol=1e-12)
    beside = gains_beside(Near(0.7)(x), 2, 0.01)
    for i, k in enumerate((4, 5)):
        index = torch.tensor([0, 1, 2, 3, k])
        expected = torch.linalg.slogdet(L[index][:, index])[1] - partial[4]
        torch.testing.assert_close(beside[i], expected, rtol=1e-9, atol=1e-12)


def test_returns_diminish() -> None:
    """What a sample adds to a set it adds to no larger one that holds that set: `gain(i | A) >= gain(i | A + j)`."""
    for seed in range(5):
        K = Near(0.7)(Noise.of(seed, 6).normal((6, 2), 0))
        small = torch.tensor([0, 1, 5])
        less = gains_beside(K, 1, 0.01)[0]
        assert float(gains_beside(K[small][:, small], 1, 0.01)[0]) >= float(less)


def test_novelty_is_a_reward_beside_the_group_or_a_reference() -> None:
    x = Noise.of(2, 6).normal((6, 2), 0)
    x[2] = x[0]  # a copy
    made = batch(x)
    gain = advantages([Novel(Near(0.7), weight=2.0, jitter=1e-3)], made) - REWARD
    torch.testing.assert_close(gain[:3], 2 * gains_in_turn(Near(0.7)(x[:3]), 1e-3), rtol=1e-9, atol=1e-12)
    assert float(gain[2]) < float(gain[1]) - 5, "a copy adds next to nothing"
    beside = advantages([Novel(Near(0.7), reference=x[:1])], made) - REWARD
    assert float(beside[0]) == pytest.approx(float(beside[2]))
    assert float(beside[1]) > float(beside[0])


def test_likenesses() -> None:
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    assert SameDirection()(x)[0].tolist() == [1, 1, 0]
    torch.testing.assert_close(Near(2.0)(x)[0, 1], torch.tensor(-1 / 8).exp())


def test_features_may_be_chosen() -> None:
    """A feature that is the same for all makes copies of them all."""
    made = batch()
    gain = advantages([Novel(features=lambda x: torch.ones(6, 1), jitter=1e-3)], made) - REWARD
    assert gain[[1, 2, 4, 5]].max() < -5
