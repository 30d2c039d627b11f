"""DPP-GRPO: a sample's reward is what it adds to the volume of what there is, and what it is worth by itself."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from align.mixture_walk import ends, mode_of, ring, walk
from kedge.align import Kept, Near, Novel, OwnWalks, PolicyGradient, Recorded, Relative, Standard, advantages
from kedge.align.advantages import gains_beside, gains_in_turn
from kedge.rl.objectives import clipped
from kedge.train import AdamW, Trainer
from kedge.walk.hooks import Record

pytestmark = pytest.mark.system

f64 = torch.float64
RING = ring(4)
ITEMS, SIZE = 20, 5
GENERATOR = torch.Generator().manual_seed(1)
PLACES = torch.rand(ITEMS, 2, generator=GENERATOR, dtype=f64) * 2
"""Twenty items in a square."""


def test_a_gain_is_a_difference_of_log_determinants() -> None:
    """Schur's complement against two determinants; in turn they add up to that of all; less is gained beside more."""
    K = Near(0.7)(PLACES) + 1e-3 * torch.eye(ITEMS, dtype=f64)
    few, many = [0, 1, 2], [0, 1, 2, 3, 4, 5, 6]

    def beside(there: list[int], i: int) -> Tensor:
        return torch.logdet(K[[*there, i]][:, [*there, i]]) - torch.logdet(K[there][:, there])

    for there in (few, many):
        rest = list(range(10, ITEMS))
        order = there + rest
        found = gains_beside(Near(0.7)(PLACES[order]), len(rest), 1e-3)
        expected = torch.stack([beside(there, i) for i in rest])
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(gains_in_turn(Near(0.7)(PLACES), 1e-3).sum(), torch.logdet(K), rtol=1e-9, atol=1e-9)
    assert all(beside(few, i) >= beside(many, i) - 1e-12 for i in range(10, ITEMS))


def log_volume(items: Tensor) -> Tensor:
    return torch.logdet(Near(0.7)(PLACES[items]) + 1e-2 * torch.eye(len(items), dtype=f64))


def greedy() -> float:
    chosen: list[int] = []
    for _ in range(SIZE):
        left = [i for i in range(ITEMS) if i not in chosen]
        chosen.append(max(left, key=lambda i: float(log_volume(torch.tensor([*chosen, i])))))
    return float(log_volume(torch.tensor(chosen)))


def test_a_policy_learns_to_choose_a_set() -> None:
    """Five slots, a law over twenty items for each, from chance to the volume of the set that greed would choose: 95%
    of the way and more. An item is credited with what it adds to those before it, and with what is added after it.
    """
    logits = torch.zeros(SIZE, ITEMS, dtype=f64, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.2)
    generator = torch.Generator().manual_seed(0)
    pieces = [Novel(Near(0.7), 1.0, jitter=1e-2)]
    sets, count = torch.arange(32).repeat_interleave(SIZE), 32
    slot = torch.arange(SIZE).repeat(count)

    def draw(count: int) -> Tensor:
        return torch.multinomial(logits.detach().softmax(-1), count, replacement=True, generator=generator).T

    chance = float(torch.stack([log_volume(items) for items in draw(200)]).mean())
    for _ in range(150):
        items = draw(count).flatten()
        batch = Recorded(Record(x=[PLACES[items]]), torch.zeros(len(items), dtype=f64), group=sets)
        to_go = advantages(pieces, batch).reshape(count, SIZE).flip(1).cumsum(1).flip(1).flatten()
        # a slot is compared with itself in the other sets
        A = advantages([Relative(), Standard()], Recorded(Record(), to_go, group=slot))
        old = logits.detach().log_softmax(-1)[slot, items]
        for _ in range(2):
            optimiser.zero_grad()
            clipped(logits.log_softmax(-1)[slot, items] - old, A, 0.2).mean().backward()
            optimiser.step()
    found = float(torch.stack([log_volume(items) for items in draw(200)]).mean())
    assert found - chance > 0.95 * (greedy() - chance)


def quality(x: Any, cond: Any = None) -> Tensor:
    return RING.log_prob(x).clamp(min=-5).to(x)


@cache
def trained(which: str) -> Tensor:
    """Ends after 14 batches of two groups of 24, each heard twice."""
    made = walk(RING, 6, seed=1)
    pieces = {
        "grpo": [Relative(), Standard()],
        "ours": [Novel(Near(0.5), 0.5), Relative(), Standard()],
        "novelty alone": [Novel(Near(0.5), 0.5), Relative(), Standard()],
    }[which]

    def nothing(x: Any, cond: Any = None) -> Tensor:
        return torch.zeros(len(x))

    reward = nothing if which == "novelty alone" else quality
    source = Kept(OwnWalks(made, (2,), 48, reward, each=24), times=2)
    part = PolicyGradient(made, pieces).part(AdamW(1e-2, warmup=0, weight_decay=0.0))
    Trainer([part], source, 28, seed=1, progress=False).train()
    return ends(made, 600)


def shares(which: str) -> Tensor:
    return torch.bincount(mode_of(trained(which), RING), minlength=4) / 600


def test_quality_alone_loses_half_of_the_modes() -> None:
    assert int((shares("grpo") > 0.03).sum()) <= 2


def test_with_what_each_adds_all_modes_stay() -> None:
    """And samples are about as likely to come from where data are as they were."""
    assert float(shares("ours").min()) > 0.1
    before = float(RING.log_prob(ends(walk(RING, 6), 600)).mean())
    assert float(RING.log_prob(trained("ours")).mean()) > before - 0.3


def test_without_quality_samples_leave_the_modes() -> None:
    assert float(RING.log_prob(trained("novelty alone")).mean()) < -4
