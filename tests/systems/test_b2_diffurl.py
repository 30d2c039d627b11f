"""B2-DiffuRL: the last steps first, and siblings that part where the steps in training begin."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from align.mixture_walk import ends, mode_of, walk
from kedge.align import Extremes, Growing, OwnWalks, PolicyGradient, Recorded, Relative, Standard, advantages
from kedge.exact import GaussianMixture
from kedge.exact.chain import Chain
from kedge.train import AdamW, Tick, Trainer
from kedge.walk.hooks import Record

pytestmark = pytest.mark.system

STEPS, SIBLINGS = 6, 5
CHAIN = Chain(states=4, steps=3)
MODES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
RARE = GaussianMixture([0.02, 0.98 / 3, 0.98 / 3, 0.98 / 3], MODES, [0.0225] * 4)


def reward(x: Any, cond: Any = None) -> Tensor:
    """All or nothing: one walk in fifty."""
    return (mode_of(x, RARE) == 0).float()


def chosen(end: Tensor) -> Tensor:
    """Of a chain: the last state alone is worth something."""
    return (end == 3).double()


def last_steps(logits: Tensor, siblings: bool, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """40 ends, where they came from and their advantages: of eight branches of five siblings, compared among
    themselves; or of walks that share nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    heads = CHAIN.sample(logits, 8 if siblings else 40, generator)[2]
    heads = heads.repeat_interleave(SIBLINGS) if siblings else heads
    ends = torch.multinomial(logits[2].softmax(-1)[heads], 1, generator=generator)[:, 0]
    group = torch.arange(8).repeat_interleave(SIBLINGS) if siblings else None
    return heads, ends, advantages([Relative(others=True)], Recorded(Record(), chosen(ends), group=group))


def test_siblings_tell_what_the_last_step_is_worth() -> None:
    """From each state the last step earns the reward with a probability p. By brute force, what it is worth is
    `r - p` and its gradient that of all 256 walks. Siblings estimate it without bias in every state, and their squared
    error is less than half of that of a mean over everyone, which is right only on the average of the states. The
    gradient is unbiased with either.
    """
    p = torch.tensor([0.02, 0.1, 0.9, 0.98], dtype=torch.float64)
    logits = torch.zeros(3, 4, 4, dtype=torch.float64)
    logits[2, :, 3] = (3 * p / (1 - p)).log()
    logits.requires_grad_()
    (exact,) = torch.autograd.grad((CHAIN.law(logits) * chosen(CHAIN.walks[-1])).sum(), logits)
    logits = logits.detach()
    squared = {}
    for siblings in (False, True):
        errors, slopes = [], []
        for seed in range(300):
            heads, ends, A = last_steps(logits, siblings, seed)
            gone = A - (chosen(ends) - p[heads])
            score = torch.nn.functional.one_hot(ends, 4) - logits[2].softmax(-1)[heads]
            slopes.append(torch.zeros(4, 4, dtype=torch.float64).index_add(0, heads, A[:, None] * score) / 40)
            errors.append(torch.zeros(4, dtype=torch.float64).index_add(0, heads, gone) / 40)
            squared.setdefault(siblings, []).append(float((gone**2).mean()))
        slope, bias = torch.stack(slopes), torch.stack(errors)
        assert bool(((slope.mean(0) - exact[2]).abs() < 4 * slope.std(0) / 300**0.5).all())
        there = (bias.mean(0).abs() < 4 * bias.std(0) / 300**0.5).all()
        assert bool(there) is siblings
    assert sum(squared[False]) > 2 * sum(squared[True])


def test_of_a_branch_the_best_and_the_worst_are_heard() -> None:
    value = torch.tensor([1.0, 0, 0, 0, 0, 0.1, 0, 0, 0, 0, 1, 1, 1, 1, 1], dtype=torch.float64)
    batch = Recorded(Record(), value, group=torch.arange(3).repeat_interleave(SIBLINGS))
    A = advantages([Relative(), Standard(within="batch"), Extremes(0.5)], batch)
    assert A.nonzero()[:, 0].tolist() == [0, 1], "of the first branch; none of those that all but agree"
    assert A[0] > 0.5
    assert A[1] < -0.5


def b2(steps: int) -> tuple[Growing, list[Any]]:
    """Half of the walk is shared at first, nothing but the start at last; the extremes of a branch."""
    return Growing(STEPS // 2, 0, steps), [Relative(), Standard(within="batch"), Extremes(0.5)]


def test_what_is_shared_is_not_learned() -> None:
    made = walk(RARE, STEPS)
    shared, pieces = b2(30)
    source = OwnWalks(made, (2,), 20, reward, each=SIBLINGS, shared=shared)
    assert [len(source.next(Tick(step, 0)).record.steps) for step in (0, 10, 30)] == [3, 4, 6]
    early = PolicyGradient(made, [Relative()], last=Growing(3, 6, 30))
    late = source.next(Tick(0, 0))
    whole = OwnWalks(made, (2,), 20, reward).next(Tick(0, 0))
    assert early._steps(whole.record, Tick(0, 0)) == [3, 4], "the same interval, without branches"
    assert [s.t for s in late.record.states] == [s.t for s in whole.record.states[3:]]
    assert len(pieces) == 3


@cache
def share(which: str) -> float:
    """Of ends in the rare mode after 24 batches of 20 rewards."""
    made = walk(RARE, STEPS, seed=1)
    shared, pieces = b2(24)
    if which == "b2":
        source = OwnWalks(made, (2,), 20, reward, each=SIBLINGS, shared=shared)
    else:
        source, pieces = OwnWalks(made, (2,), 20, reward), [Relative(), Standard()]
    method = PolicyGradient(made, pieces, clip=0.1)
    Trainer([method.part(AdamW(5e-3, warmup=0, weight_decay=0.0))], source, 24, seed=1, progress=False).train()
    return float(reward(ends(made, 600)).mean())


def test_it_finds_a_rare_mode() -> None:
    assert share("b2") > 0.6


def test_without_branches_it_takes_longer() -> None:
    """At as many rewards, from the same beginning; over six of them the means are .59 and .26."""
    assert share("ddpo") < 0.45
