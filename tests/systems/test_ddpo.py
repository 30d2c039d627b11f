"""DDPO: the policy gradient of a sampler, by scores or by clipped ratios."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from align.gaussian_walk import DIM, PATH
from align.gaussian_walk import ends as exact_ends
from align.gaussian_walk import walk as gaussian_walk
from align.mixture_walk import ends, mode_of, ring, walk
from kedge.align import Kept, Matching, OwnWalks, PolicyGradient, Recorded, Relative
from kedge.align.policy import DDPO
from kedge.train import AdamW, Tick, Trainer

pytestmark = pytest.mark.system

TARGET = torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)
RING = ring(4)


def near_target(x: Any, cond: Any = None) -> Tensor:
    return -(x - TARGET).pow(2).sum(1) / 2


def first_mode(x: Any, cond: Any = None) -> Tensor:
    return (mode_of(x, RING) == 0).float()


@pytest.mark.parametrize("clip", [None, 1e-4], ids=["scores", "ratios"])
def test_its_gradient_is_that_of_the_expected_reward(clip: float | None) -> None:
    """Ends are `N(m, v)`: `E r = -(|m - c|^2 + v) / 2`, whose slope in a shift is `-(m - c) dm / db`."""
    made = gaussian_walk(4, seed=1)
    method = PolicyGradient(made, [Relative(others=True)], clip=clip)
    found = []
    for step in range(40):
        batch = OwnWalks(made, (DIM,), 96, near_target, dtype=torch.float64).next(Tick(step, 5))
        found.append(-torch.autograd.grad(method(batch, Tick(step, 5))[0].mean(), made.denoiser.b)[0])
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / 40**0.5
    rows = made.grid.levels(PATH).rows()
    m = torch.zeros(1, DIM, dtype=torch.float64)
    for (t, _), (a, b, _) in zip(pairwise(rows), made.solver.plan(PATH, rows), strict=True):
        m = a * m + b * made.denoiser(m, t)
    torch.testing.assert_close(m[0].detach(), exact_ends(made)[0], rtol=1e-9, atol=1e-9)
    (expected,) = torch.autograd.grad(-((m[0] - TARGET) ** 2).sum() / 2, made.denoiser.b)
    assert bool(((mean - expected).abs()[:-1] < 4 * error[:-1]).all())
    assert bool((expected[:-1].abs() > 6 * error[:-1]).any()), "the test sees it"


def test_where_all_are_worth_the_same_nothing_moves() -> None:
    made = walk(RING, 4)
    method = PolicyGradient(made, DDPO)
    batch = OwnWalks(made, (2,), 8, lambda x, cond: torch.full((8,), 3.0)).next(Tick(0, 0))
    parameters = list(made.denoiser.parameters())
    for slope in torch.autograd.grad(method(batch, Tick(0, 0))[0].mean(), parameters, allow_unused=True):
        assert slope is None or slope.abs().max() == 0


def weighted(value: Tensor, batch: Recorded) -> Tensor:
    """Reward-weighted regression: `e^r / mean e^r` times the loss."""
    return value.exp() / value.exp().mean()


@cache
def share(which: str) -> float:
    """Of ends in the rewarded mode, after 6 or 26 batches of 48 walks."""
    made = walk(RING, 6)
    times = 4 if which == "ratios" else 1
    methods = {
        "untrained": lambda: PolicyGradient(made),
        "scores": lambda: PolicyGradient(made, clip=None),
        "ratios": lambda: PolicyGradient(made, clip=0.4),
        "long": lambda: PolicyGradient(made, clip=0.2),
        "regression": lambda: Matching(made, [weighted], draws=4),
    }
    steps = {"untrained": 0, "scores": 6, "ratios": 24, "long": 26, "regression": 26}
    method = methods[which]()
    source = Kept(OwnWalks(made, (2,), 48, first_mode), times)
    part = method.part(AdamW(5e-3, warmup=0, weight_decay=0.0))
    if steps[which]:
        Trainer([part], source, steps[which], progress=False).train()
    return float(first_mode(ends(made, 600)).mean())


def test_it_finds_the_mode() -> None:
    assert share("untrained") < 0.3
    assert share("long") > 0.9


def test_weighted_regression_lags() -> None:
    """At as many walks; a sharper weight, e^{5 r}, would catch up some of the time."""
    assert share("regression") < 0.7


def test_ratios_make_more_of_the_same_walks() -> None:
    """Six batches heard once, or four times each."""
    assert share("ratios") > share("scores") + 0.1
