"""Pairs of walks from one start: what is regressed on what, and what the estimates of a walk are worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from align.gaussian_walk import DIM, walk
from kedge import Noise
from kedge.align import Anchored, Kept, OwnWalks, StepPairs, replayed
from kedge.align.pairs import dense, least_alike, pairs
from kedge.train import Tick

TICK = Tick(3, 5)
f64 = torch.float64
SLOPE = torch.tensor([0.5, -0.3, 0.2], dtype=f64)


def linear(x: Any, cond: Any = None) -> Tensor:
    return x @ SLOPE


def own(made: StepPairs, count: int = 8, **options: Any) -> OwnWalks:
    return OwnWalks(made.walk, (DIM,), count, linear, each=2, shared=0, dtype=f64, **options)


def moved(made: StepPairs) -> StepPairs:
    shift = torch.randn(made.denoiser.b.shape, generator=torch.Generator().manual_seed(1), dtype=f64)
    with torch.no_grad():
        made.denoiser.b.add_(0.1 * shift)
    return made


def test_it_is_the_papers_regression_step_by_step() -> None:
    """Written down: returns of what steps lead to, per-step differences, weights by the index from the noise on."""
    made = StepPairs(walk(5, seed=1), [], discount=0.9, scale=2.0)
    batch = own(made, plug=True).next(TICK)
    moved(made)
    assert batch.plugged is not None
    log_ratio = (replayed(made.walk, batch.record) - batch.drawn).reshape(4, 4, 2)
    expected = torch.zeros(4, dtype=f64)
    for k in range(4):
        led_to = [*batch.plugged[k + 1 :], batch.reward]
        G = sum(0.9**i * r for i, r in enumerate(led_to))
        A = torch.as_tensor(G).reshape(4, 2)
        expected = expected + (0.9**k / 2 * (log_ratio[k, :, 0] - log_ratio[k, :, 1]) - (A[:, 0] - A[:, 1])) ** 2
    loss, _ = made(batch, TICK)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)


def test_it_is_zero_where_ratios_differ_as_advantages_do_and_nowhere_else() -> None:
    made = StepPairs(walk(4, seed=1), [], discount=1.0)
    batch = own(made, plug=True).next(TICK)
    moved(made)
    log_ratio = (replayed(made.walk, batch.record) - batch.drawn).detach()
    # rewards of which the ratios are the returns: differences of one step to the next
    to_go = torch.cat([log_ratio, torch.zeros(1, 8, dtype=f64)])
    each = to_go[:-1] - to_go[1:]
    fitting = replace(batch, plugged=torch.cat([torch.zeros(1, 8, dtype=f64), each[:-1]]), reward=each[-1])
    assert float(made(fitting, TICK)[0].detach().abs().max()) < 1e-20
    by_pair = torch.arange(4, dtype=f64).repeat_interleave(2)
    shifted = replace(fitting, reward=fitting.reward + by_pair)
    assert float(made(shifted, TICK)[0].detach().abs().max()) < 1e-20, "what a pair shares is of no interest"
    other = fitting.reward.clone()
    other[2] += 0.1
    loss = made(replace(fitting, reward=other), TICK)[0].detach()
    torch.testing.assert_close(loss, torch.tensor([0, 3 * 0.01, 0, 0], dtype=f64), rtol=1e-6, atol=1e-15)


def test_of_two_losses_the_worse_counts() -> None:
    made = StepPairs(walk(4, seed=1), [], clip=0.02)
    plain = StepPairs(made.walk, [])
    batch = own(made, plug=True).next(TICK)
    moved(made)
    a, b = pairs(batch)
    log_ratio = replayed(made.walk, batch.record) - batch.drawn
    A, w = made.advantages(batch), 0.99 ** torch.arange(3, dtype=f64)[:, None]
    both = log_ratio, log_ratio.clamp(-0.02, 0.02)
    free, held = ((w * (r[:, a] - r[:, b]) - (A[:, a] - A[:, b])) ** 2 for r in both)
    loss, info = made(batch, TICK)
    torch.testing.assert_close(loss, torch.maximum(free, held).sum(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(plain(batch, TICK)[0], free.sum(0), rtol=1e-9, atol=1e-12)
    assert 0 < float(info["clipped"]) < 1


def test_returns_are_made_comparable_step_by_step() -> None:
    made = StepPairs(walk(4, seed=1))
    A = made.advantages(own(made, 64, plug=True).next(TICK))
    a, b = pairs(own(made, 64, plug=True).next(TICK))
    assert (A[:, a] + A[:, b]).abs().max() < 1e-12, "centred in the pair"
    torch.testing.assert_close(A.pow(2).mean(1), torch.ones(3, dtype=f64), rtol=1e-6, atol=1e-6)


def test_at_three_anchors_rewards_are_their_own_and_between_them_a_mean() -> None:
    asked: list[Tensor] = []

    def reward(x: Any, cond: Any = None) -> Tensor:
        asked.append(x)
        return linear(x)

    x = [Noise.of(0, 6).normal((6, DIM), step) for step in range(5)]
    worth, counts = dense(x, reward, linear(x[-1]))
    assert len(asked) == 2, "the end has been rewarded before"
    assert bool(counts.all())
    middle = least_alike(torch.stack(x))
    cos = torch.nn.functional.cosine_similarity
    for i in range(6):
        alike = [float(cos(x[t][i], x[0][i], dim=0) + cos(x[t][i], x[-1][i], dim=0)) for t in (1, 2, 3)]
        assert int(middle[i]) == alike.index(min(alike)) + 1
        anchors = [0, int(middle[i]), 4]
        for t in range(5):
            if t in anchors:
                assert float(worth[t, i]) == pytest.approx(float(linear(x[t])[i]), abs=1e-12)
                continue
            weight = torch.stack([cos(x[t][i], x[j][i], dim=0).clamp(min=0) for j in anchors])
            known = torch.stack([linear(x[j])[i] for j in anchors])
            mean = (weight * known).sum() / weight.sum() if weight.sum() > 0 else known.mean()
            torch.testing.assert_close(worth[t, i], mean, rtol=1e-9, atol=1e-12)


def test_anchored_walks_are_as_the_walks_but_for_what_estimates_are_worth() -> None:
    made = StepPairs(walk(5, seed=1))
    one, all_ = Anchored(own(made)).next(TICK), own(made, plug=True).next(TICK)
    assert one.plugged is not None
    assert all_.plugged is not None
    assert one.reward.equal(all_.reward)
    assert one.plugged[0].equal(all_.plugged[0]), "the first is an anchor"
    assert not one.plugged.equal(all_.plugged)
    kept = Kept(Anchored(own(made)), times=2)
    again = Kept(Anchored(own(made)), times=2)
    kept.next(TICK)
    again.load(kept.state())
    second = again.next(Tick(4, 5))
    assert second.plugged is not None
    assert second.plugged.equal(one.plugged)


def test_what_failed_takes_its_partner_along() -> None:
    def reward(x: Any, cond: Any = None) -> Tensor:
        return torch.where(torch.arange(8) == 3, torch.nan, linear(x))

    made = StepPairs(walk(4, seed=1))
    source = OwnWalks(made.walk, (DIM,), 8, reward, each=2, shared=0, dtype=f64)
    batch = Anchored(source).next(TICK)
    moved(made)
    assert (made(batch, TICK)[0] == 0).tolist() == [False, True, False, False]


def test_what_does_not_fit_is_told() -> None:
    made = StepPairs(walk(4))
    with pytest.raises(ValueError, match="wants the rewards of estimates"):
        made(own(made).next(TICK), TICK)
    with pytest.raises(ValueError, match="wants two walks in each group"):
        made(OwnWalks(made.walk, (DIM,), 8, linear, dtype=f64).next(TICK), TICK)
    with pytest.raises(ValueError, match="is deterministic; use"):
        StepPairs(walk(4, eta=0.0))
    with pytest.raises(ValueError, match=r"discount lies in \(0, 1\]"):
        StepPairs(walk(4), discount=0.0)
