"""Walks to learn from: who draws them, what a group shares, what is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from align.gaussian_walk import DIM, ends, exact, walk
from kedge import Cond, Noise, Walk, hooks
from kedge.align import OwnWalks, recorded, replayed
from kedge.train import Tick

TICK = Tick(3, 5)


def total(x: Any, cond: Any = None) -> Tensor:
    return x.sum(-1) if cond is None else x.sum(-1) + 100 * cond.fields["goal"][:, 0]


def own(**options: Any) -> OwnWalks:
    return OwnWalks(options.pop("walk", walk()), (DIM,), 12, total, dtype=torch.float64, **options)


def test_walks_are_drawn_as_the_walk_says_and_keyed_by_the_tick() -> None:
    """Their ends have the walk's own law, they are the same for the same tick, and another walk may draw them."""
    made = walk()
    many = OwnWalks(made, (DIM,), 4000, total, dtype=torch.float64).next(TICK).record.x[-1]
    mean, variance = ends(made)
    error = (variance / 4000).sqrt()
    assert bool(((many.mean(0) - mean).abs() < 4 * error).all())  # type: ignore[union-attr]
    assert bool(((many.var(0) / variance - 1).abs() < 4 * (2 / 4000) ** 0.5).all())  # type: ignore[union-attr]
    same, next_one = own().next(TICK), own().next(Tick(4, 5))
    assert same.record.x[-1].equal(own().next(TICK).record.x[-1])  # type: ignore[union-attr]
    assert not same.record.x[0].equal(next_one.record.x[0])  # type: ignore[union-attr]
    assert not same.record.x[-1].equal(own(by=walk(seed=2)).next(TICK).record.x[-1])  # type: ignore[union-attr]


def test_densities_are_those_of_what_drew_and_replay_gives_them_again() -> None:
    made, other = walk(), walk(seed=2)
    found = own(walk=made, by=other).next(TICK)
    torch.testing.assert_close(replayed(made, found.record, other.denoiser), found.drawn, rtol=1e-12, atol=1e-12)
    assert (replayed(made, found.record) - found.drawn).abs().max() > 0.01
    torch.testing.assert_close(
        replayed(made, found.record, average=True), replayed(made, found.record) / DIM, rtol=1e-12, atol=0
    )
    assert found.drawn.shape == (len(found.record.random_steps), 12) == (3, 12), "the last step has no variance"


class Goals:
    """A walk's exact denoiser, which hears a goal and does not mind it."""

    def __init__(self) -> None:
        self.path = walk().path

    def __call__(self, x: Tensor, t: float, cond: Cond) -> Tensor:
        return exact(x, t) + 0 * cond.fields["goal"]


def goals(count: int, noise: Noise) -> Cond:
    return Cond.of(goal=noise.normal((count, 1), 0))


def test_groups_share_what_they_are_to_share() -> None:
    plain = walk()
    told = Walk(Goals(), plain.solver, plain.grid)
    found = own(walk=told, each=3, conditions=goals).next(TICK)
    assert found.group is not None
    assert found.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    goal = found.record.states[0].cond.fields["goal"][:, 0]
    assert goal.unique_consecutive().numel() == 4
    later = own(walk=told, each=3, conditions=goals).next(Tick(4, 5)).record.states[0].cond.fields["goal"][:, 0]
    assert not bool((goal == later).any()), "other goals at every step"
    assert found.reward.sub(100 * goal).abs().max() < 10, "the reward hears the condition"
    start = found.record.x[0]
    assert isinstance(start, Tensor)
    assert start[:, 0].unique().numel() == 12
    shared = own(walk=told, each=3, conditions=goals, one_start=True).next(TICK).record
    first, last = shared.x[0], shared.x[-1]
    assert isinstance(first, Tensor)
    assert isinstance(last, Tensor)
    assert first[:, 0].unique_consecutive().numel() == 4
    assert last[:, 0].unique().numel() == 12, "each goes its own way from there"
    assert own().next(TICK).group is None


def test_estimates_are_rewarded_where_that_is_asked() -> None:
    made = walk()
    found = own(walk=made, plug=True).next(TICK)
    assert found.plugged is not None
    for k, i in enumerate(found.record.random_steps):
        state = found.record.states[i]
        assert isinstance(state.x, Tensor)
        torch.testing.assert_close(found.plugged[k], exact(state.x, float(state.t)).sum(-1), rtol=1e-12, atol=1e-12)
    assert own().next(TICK).plugged is None


def test_pinned_entries_have_no_divergence() -> None:
    made, other = walk(), walk(seed=2)
    mask = torch.tensor([True, False, False])
    held = Walk(made.denoiser, made.solver, made.grid, [hooks.Pin(mask, torch.zeros(DIM, dtype=torch.float64))])
    z = Noise.of(1, 5).normal((5, DIM), 0) * 1000
    record = recorded(held, z, total, seeds=2).record
    kernels, others = held.replay(record), held.replay(record, other.denoiser)
    i = record.random_steps[0]
    entries = kernels[i].kl(others[i])
    assert isinstance(entries, Tensor)
    assert entries[:, 0].min() > 0
    torch.testing.assert_close(record.divergence(kernels, others)[0], entries[:, 1:].sum(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        record.divergence(kernels, others, average=True), record.divergence(kernels, others) / DIM, rtol=1e-12, atol=0
    )


def test_nothing_is_saved_of_a_source_of_own_walks() -> None:
    source = own()
    assert source.state() == {}
    source.load({})
    with pytest.raises(ValueError, match="do not divide a batch of 12"):
        own(each=5)
