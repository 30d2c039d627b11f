"""SetPO: what a sample adds to the variety of its group is part of its advantage."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from align.mixture_walk import ends, mode_of, ring, walk
from kedge.align import Kept, Near, OwnWalks, PolicyGradient, Recorded, Relative, Standard, Varied, advantages
from kedge.align.advantages import Measure, contributions, vendi
from kedge.rl.objectives import clipped
from kedge.train import AdamW, Trainer
from kedge.walk.hooks import Record

pytestmark = pytest.mark.system

RING = ring(4)
ANSWERS, RIGHT, GROUP = 50, 5, 32


def functional(K: Tensor, measure: Measure) -> Tensor:
    match measure:
        case "dissimilarity":
            return 1 - K.mean()
        case "log-det":
            return torch.logdet(torch.eye(len(K), dtype=K.dtype) + K)
        case "vendi":
            return vendi(K)


@pytest.mark.parametrize("measure", ["dissimilarity", "log-det", "vendi"])
def test_a_contribution_is_what_is_missing_without_it(measure: Measure) -> None:
    """By brute force; and the rarer an answer is in the group, the more."""
    features = torch.eye(4, dtype=torch.float64)[torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])]
    K = Near(0.5)(features)
    found = contributions(K, measure)
    for i in range(10):
        rest = torch.arange(10) != i
        expected = functional(K, measure) - functional(K[rest][:, rest], measure)
        torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-12)
    assert found[0] < found[4] < found[7] < found[9]
    torch.testing.assert_close(found[:4], found[0].expand(4), rtol=1e-9, atol=1e-12)


def batch_of(answer: Tensor) -> Recorded:
    features = torch.nn.functional.one_hot(answer, ANSWERS).double()
    return Recorded(Record(x=[features]), (answer < RIGHT).double())


def learned(pieces: list[Any]) -> Tensor:
    """The law of answers after 150 groups: fifty answers, five of them right."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(ANSWERS, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=1.5)
    for _ in range(150):
        answer = torch.multinomial(logits.detach().softmax(0), GROUP, replacement=True, generator=generator)
        A = advantages(pieces, batch_of(answer))
        old = logits.detach().log_softmax(0)[answer]
        for _ in range(2):
            optimiser.zero_grad()
            clipped(logits.log_softmax(0)[answer] - old, A, 0.2).mean().backward()
            optimiser.step()
    return logits.detach().softmax(0)


def test_all_right_answers_stay() -> None:
    """Plain group advantages end at one or two of five right answers, which pass as often at the first try; within
    eight tries of a judge who wants another answer they do not.
    """
    grpo = learned([Relative(), Standard()])
    setpo = learned([Relative(), Standard(), Varied(Near(0.5), 0.5, good=1.0)])
    entropy = {}
    for name, law in (("grpo", grpo), ("setpo", setpo)):
        right = law[:RIGHT] / law[:RIGHT].sum()
        entropy[name] = float(torch.special.entr(right).sum() / torch.tensor(float(RIGHT)).log())
    assert entropy["setpo"] > 0.8
    assert entropy["grpo"] < entropy["setpo"] - 0.2
    assert float(setpo[:RIGHT].sum()) > float(grpo[:RIGHT].sum()) - 0.02
    wanted = [float((1 - (1 - law[:RIGHT]) ** 8).mean()) for law in (grpo, setpo)]
    assert wanted[1] > wanted[0] + 0.1


def on_a_mode(x: Any, cond: Any = None) -> Tensor:
    return (torch.cdist(x, RING.means.to(x)).amin(1) < 0.3).float()


def direction(x: Any) -> Tensor:
    return torch.nn.functional.normalize(x, dim=1)


@cache
def trained(which: str) -> Tensor:
    """Ends after 14 batches of two groups of 24, each heard twice: any mode is as good as any other."""
    made = walk(RING, 6, seed=1)
    varied = Varied(Near(0.5), 1.0, good=1.0, features=direction)
    method = PolicyGradient(made, [Relative(), Standard(), *([varied] if which == "setpo" else [])])
    source = Kept(OwnWalks(made, (2,), 48, on_a_mode, each=24), times=2)
    Trainer([method.part(AdamW(1e-2, warmup=0, weight_decay=0.0))], source, 28, seed=1, progress=False).train()
    return ends(made, 600)


def shares(which: str) -> Tensor:
    return torch.bincount(mode_of(trained(which), RING), minlength=4) / 600


def test_all_modes_stay() -> None:
    """And no fewer samples are near one than there were."""
    assert float(shares("setpo").min()) > 0.1
    assert float(on_a_mode(trained("setpo")).mean()) > 0.9 * float(on_a_mode(ends(walk(RING, 6))).mean())


def test_plain_advantages_lose_half_of_them() -> None:
    assert int((shares("grpo") > 0.05).sum()) <= 2
