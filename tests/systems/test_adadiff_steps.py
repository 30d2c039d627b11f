"""A number of steps for each condition, chosen before the walk."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from kedge import Cond, Noise, Walk, solvers
from kedge.distill import CountLoss, StepCounts, Subject, step_rewards, walk_by_counts
from kedge.exact import GaussianMixture
from kedge.train import AdamW, Batches, Tick, Trainer
from kedge.walk.grids import LogSNR
from systems.fitted import PATH, f64

pytestmark = pytest.mark.system

OPTIONS = (3, 5, 7, 9, 12, 16, 24, 50)
CLASSES, COUNT, LOW, HIGH = 8, 64, 0.02, 20.0


def trained(tokens: Tensor, rewards: Tensor, entropy: float = 0.02) -> StepCounts:
    torch.manual_seed(0)
    counts = StepCounts(OPTIONS, tokens.shape[-1], width=16, depth=1)
    part = CountLoss(counts, entropy).part(AdamW(1e-2, warmup=10, decay="cosine"), shadows=())
    Trainer([part], Batches({"tokens": tokens, "rewards": rewards}, 64), 300, progress=False).train()
    return counts.eval()


def test_it_learns_the_best_choice_of_a_table() -> None:
    """Of eight conditions with rewards drawn at random: 97 % of what the best choices bring."""
    table = torch.rand(CLASSES, len(OPTIONS), generator=torch.Generator().manual_seed(2))
    kind = torch.arange(64 * 4) % CLASSES
    counts = trained(torch.eye(CLASSES)[kind], table[kind])
    found = table[torch.arange(CLASSES), counts.choose(torch.eye(CLASSES))]
    assert float(found.mean()) >= 0.97 * float(table.amax(1).mean())
    assert float(table.mean()) < 0.8 * float(table.amax(1).mean())


def law(apart: int) -> GaussianMixture:
    """Two ways to go: how far they lie apart is how hard it is to tell them apart in few steps."""
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=f64) * apart / CLASSES
    return GaussianMixture([0.5, 0.5], means, [(0.15 * apart / CLASSES) ** 2] * 2)


@cache
def errors() -> Tensor:
    """Of each condition and number of steps: how far walks end from those of fifty steps, root mean square."""
    rows = []
    for apart in range(1, CLASSES + 1):
        own = Subject(law(apart).denoiser(PATH), law(apart).sample(COUNT, seeds=apart), LOW, HIGH, seed=apart)
        found = [own.walked(solvers.DPMSolverPP(2), LogSNR(n, LOW, HIGH)) for n in OPTIONS]
        rows.append(torch.stack([own.rms(x, found[-1]) for x in found]))
    return torch.stack(rows)


def test_hard_conditions_get_more_steps_than_easy_ones() -> None:
    """Samples are within 2 % (of their size, 1) of where they are after fifty steps, in two thirds of them at most; no
    single number of steps is worth as much; and the steps follow how hard a condition is.
    """
    tokens, rewards = torch.eye(CLASSES), step_rewards(-errors(), OPTIONS, 0.01, penalty=0.2).float()
    kind = torch.arange(256) % CLASSES
    chosen = trained(tokens[kind], rewards[kind], entropy=0.1).choose(tokens)
    steps, own = torch.tensor(OPTIONS, dtype=f64)[chosen], torch.arange(CLASSES)
    assert float(steps.mean()) <= 0.67 * 50
    assert float(errors()[own, chosen].max()) < 0.02
    assert float(rewards[own, chosen].mean()) > float(rewards.mean(0).max()) + 0.02
    assert spearmanr(steps, range(1, CLASSES + 1)).statistic > 0.7  # type: ignore[union-attr]


def test_the_reward_is_for_few_steps_that_are_good_enough() -> None:
    quality = torch.tensor([[0.1, 0.5, 0.52], [0.9, 0.2, 0.9]])
    found = step_rewards(quality, (5, 10, 20), tolerance=0.05, quality_weight=2.0, penalty=3.0)
    wanted = torch.tensor([[-3.0, 0.5 + 1.0, 0.0 + 1.04], [0.75 + 1.8, -3.0, 0.0 + 1.8]])
    torch.testing.assert_close(found, wanted)


def test_its_gradient_is_that_of_the_expected_reward() -> None:
    """Averaged over draws; the baseline adds none."""
    torch.manual_seed(1)
    counts = StepCounts((2, 4, 8), 3, width=8, depth=1)
    tokens, rewards = torch.randn(1, 3), torch.tensor([[0.2, 1.0, -0.5]])
    many = {"tokens": tokens.expand(4000, 3), "rewards": rewards.expand(4000, 3)}
    loss, _ = CountLoss(counts)(many, Tick(0, 0))
    found = torch.autograd.grad(loss.mean(), counts.leave.bias)[0]
    expected = (counts(tokens).softmax(1) * rewards).sum()
    wanted = -torch.autograd.grad(expected, counts.leave.bias)[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=4 * 1.5 / math.sqrt(4000))


class Shrunk:
    """A denoiser of a Gaussian whose variance it is told."""

    path = PATH
    pinned = "noised"

    def __call__(self, x_t: Tensor, t: Any, cond: Cond) -> Tensor:
        variance = cond.fields["variance"]
        return x_t * variance / (variance + t * t)


def test_each_walk_is_the_one_it_would_be_alone() -> None:
    """With its own noise and condition, whatever others of its number there are."""
    cond = Cond.of(variance=torch.linspace(0.1, 1, 6, dtype=f64)[:, None])
    counts, x = torch.tensor([4, 2, 4, 3, 2, 4]), PATH.prior((6, 1), 0, dtype=f64)
    found = walk_by_counts(Shrunk(), solvers.DDPM(), LogSNR, x, counts, cond, seeds=3)
    noise = Noise.of(3, 6)
    for i in range(6):
        at = torch.tensor([i])
        walk = Walk(Shrunk(), solvers.DDPM(), LogSNR(int(counts[i])))
        alone = walk.run(x[at], cond.take(at), seeds=noise.take(at, fork=False)).x
        torch.testing.assert_close(found[at], alone)


def test_options_rise() -> None:
    with pytest.raises(ValueError, match="options are numbers of steps, fewest first"):
        StepCounts((8, 4), 3)
