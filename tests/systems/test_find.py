"""FIND: where walks begin is learned, and nothing else."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from align.gaussian_walk import DIM
from align.linear_start import REWARD, A, law, line, reward
from align.mixture_walk import mode_of, ring, walk
from kedge.align import OwnStarts, Start, StartGradient
from kedge.train import AdamW, Trainer

pytestmark = pytest.mark.system

RING = ring(8)
WALK = walk(RING, 6, eta=0.0)


def test_it_ends_in_the_best_law() -> None:
    """Of `E r - b KL`, r quadratic and the walk `s z + o`: mean `(s A s + b)^-1 s (c - A o)`, variance
    `b / (b + s A s)` in each entry: narrow where the reward is sensitive.
    """
    b = 0.2
    made, start = law()
    method = StartGradient(start, penalty=b)
    part = method.part(AdamW(4e-2, warmup=0, hold=60, decay="cosine", weight_decay=0.0))
    Trainer([part], OwnStarts(start, made, 256, reward), 180, progress=False).train()
    slope, offset = line(made)
    S = torch.diag(slope)
    curve = S @ A @ S
    mean = torch.linalg.solve(curve + b * torch.eye(DIM, dtype=torch.float64), S @ (REWARD.b - A @ offset))
    std = (b / (b + curve.diagonal())).sqrt()
    assert float((start.mean.detach() - mean).norm() / mean.norm()) < 0.05
    torch.testing.assert_close(start.log_std.exp().detach(), std, rtol=0.1, atol=0)
    assert std.argmin() == curve.diagonal().argmax()


def third_mode(x: Any, cond: Any = None) -> Tensor:
    return (mode_of(x, RING) == 2).float()


@cache
def learned() -> tuple[Start, list[Tensor]]:
    """After 40 batches of 32 walks, each heard four times; and the denoiser's weights before."""
    before = [p.detach().clone() for p in WALK.denoiser.parameters()]
    start = Start(WALK, (2,))
    part = StartGradient(start).part(AdamW(3e-2, warmup=0, weight_decay=0.0), repeat=4)
    Trainer([part], OwnStarts(start, WALK, 32, third_mode), 40, progress=False).train()
    return start, before


def test_one_mode_in_eight_is_found_and_the_model_has_not_moved() -> None:
    """All draws together are better than the one draw in eight that chance would give."""
    start, before = learned()
    for p, was in zip(WALK.denoiser.parameters(), before, strict=True):
        assert p.equal(was)
        assert p.grad is None
    chance = third_mode(WALK.run(Start(WALK, (2,)).draw(600, seeds=3)).x).mean()
    found = third_mode(WALK.run(start.draw(600, seeds=3)).x).mean()
    assert float(chance) < 0.2
    assert float(found) > 0.9


def test_it_beats_the_best_of_three_walks() -> None:
    """At three times the walks for each sample that is kept."""
    start, _ = learned()
    tries = third_mode(WALK.run(Start(WALK, (2,)).draw(1800, seeds=3)).x).reshape(3, 600)
    assert float(third_mode(WALK.run(start.draw(600, seeds=3)).x).mean()) > float(tries.amax(0).mean()) + 0.4
