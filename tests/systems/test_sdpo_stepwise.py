"""SDPO, stepwise: dense rewards of a few steps, compared in pairs, that hold for other numbers of steps."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from align.mixture_walk import ends, ring, walk
from kedge import Walk, grids
from kedge.align import Anchored, OwnWalks, StepPairs
from kedge.train import AdamW, Tick, Trainer

pytestmark = pytest.mark.system

RING = ring(4)
STEPS = (1, 2, 4, 8)


def reward(x: Any, cond: Any = None) -> Tensor:
    return torch.exp(-(x - RING.means[0].to(x)).pow(2).sum(1) / 2)


def by_steps(made: Walk) -> Tensor:
    """The mean reward of walks of 1, 2, 4 and 8 steps with this denoiser."""
    walks = (Walk(made.denoiser, made.solver, grids.LogSNR(n, 0.05, 200.0)) for n in STEPS)
    return torch.stack([reward(ends(one, 400)).mean() for one in walks])


@cache
def rises() -> Tensor:
    """After 26 batches of 24 pairs of 4 steps."""
    made = walk(RING, 4)
    before = by_steps(made)
    source = Anchored(OwnWalks(made, (2,), 48, reward, each=2, shared=0))
    part = StepPairs(made).part(AdamW(5e-3, warmup=0, weight_decay=0.0))
    Trainer([part], source, 26, progress=False).train()
    return by_steps(made) - before


def test_what_is_tuned_in_four_steps_holds_in_one_two_and_eight() -> None:
    assert float(rises()[2]) > 0.3
    assert bool((rises() > 0.75 * rises()[2]).all())


def test_a_pair_shares_its_start_and_three_rewards_a_walk_are_asked() -> None:
    asked = []

    def counted(x: Any, cond: Any = None) -> Tensor:
        asked.append(len(x))
        return reward(x)

    made = walk(RING, 8)
    batch = Anchored(OwnWalks(made, (2,), 12, counted, each=2, shared=0)).next(Tick(0, 0))
    assert sum(asked) == 3 * 12
    start = batch.record.x[0]
    assert isinstance(start, Tensor)
    assert start[::2].equal(start[1::2])
    assert batch.plugged is not None
    assert batch.plugged.shape == (7, 12)
    assert batch.plugged[0, ::2].equal(batch.plugged[0, 1::2]), "of one start there is one first estimate"
