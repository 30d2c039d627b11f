"""Rewards whose gradient goes back through the walk: the same optimum as by log-weights, and exact gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from align.gaussian_walk import DIM, ends, walk
from kedge.align import Beginnings, Direct, OwnWalks
from kedge.kernels import Gaussian
from kedge.train import AdamW, Tick, Trainer

BETA = 0.4
SLOPE = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)
TICK = Tick(3, 5)


def linear(x: Any, cond: Any = None) -> Tensor:
    return x @ SLOPE


def made(count: int = 8, through: Any = True, **options: Any) -> Direct:
    walks = OwnWalks(walk(5, seed=1), (DIM,), count, linear, dtype=torch.float64, **options)
    return Direct(walks, BETA, through=through)


def slope(method: Direct) -> Tensor:
    loss = method(Beginnings(method.walks).next(TICK), TICK)[0].mean()
    return torch.autograd.grad(loss, method.denoiser.b)[0]


def test_a_linear_reward_ends_in_the_tilt() -> None:
    """Shifts alone reach it, and the gradient of a linear reward is the same for all walks: no noise at all."""
    method = Direct(OwnWalks(walk(6), (DIM,), 4, linear, dtype=torch.float64), BETA)
    mean, variance = ends(method.walk)
    part = method.part(AdamW(0.05, weight_decay=0.0, decay="cosine"), clip=None, shadows=())
    Trainer([part], Beginnings(method.walks), 150, progress=False).train()
    found, spread = ends(method.walk)
    torch.testing.assert_close(found, mean + variance * SLOPE / BETA, rtol=0, atol=1e-3)
    torch.testing.assert_close(spread, variance, rtol=1e-6, atol=0)


def test_the_loss_is_the_divergence_less_the_reward() -> None:
    method = made()
    with torch.no_grad():
        method.denoiser.b[:-1].add_(0.2)
    begun = Beginnings(method.walks).next(TICK)
    drawn = method.walks.next(TICK)
    model, still = (method.walk.replay(drawn.record, d) for d in (method.denoiser, method.reference.module))
    kl = []
    for i in drawn.record.random_steps:
        one, other = model[i], still[i]
        assert isinstance(one, Gaussian)
        assert isinstance(other, Gaussian)
        kl.append(((one.mean - other.mean) ** 2 / (2 * one.std**2)).sum(1))  # type: ignore[operator]
    expected = torch.stack(kl).sum(0) - drawn.reward / BETA
    loss, info = method(begun, TICK)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    assert float(info["reward"]) == pytest.approx(float(drawn.reward.mean()))


@pytest.mark.parametrize("through", [True, "checkpoint"])
def test_gradients_are_those_of_finite_differences(through: Any) -> None:
    method = made(through=through)
    with torch.no_grad():
        method.denoiser.b.mul_(1.5)
    found, begun = slope(method), Beginnings(method.walks).next(TICK)
    for i, j in ((0, 0), (2, 1), (3, 2)):
        sides = []
        for h in (1e-5, -1e-5):
            with torch.no_grad():
                method.denoiser.b[i, j] += h
                sides.append(float(method(begun, TICK)[0].mean()))
                method.denoiser.b[i, j] -= h
        assert float(found[i, j]) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5, abs=1e-8)


def test_only_the_last_steps_hear_of_it_where_that_is_asked() -> None:
    assert slope(made(through=2))[:3].abs().max() == 0
    assert slope(made(through=2))[3].abs().min() > 0
    assert slope(made())[4].abs().max() == 0, "the last step is free of charge, and not ours to move"
    method = made(through=2)
    _, info = method(Beginnings(method.walks).next(TICK), TICK)
    assert float(info["divergence"]) == 0, "it is where it began"


def test_what_does_not_fit_is_told() -> None:
    walks = OwnWalks(walk(), (DIM,), 4, linear, dtype=torch.float64)
    with pytest.raises(ValueError, match="beta must be positive"):
        Direct(walks, 0.0)
    flow = OwnWalks(replace(walk(), solver=walk(eta=0.0).solver), (DIM,), 4, linear, dtype=torch.float64)
    with pytest.raises(ValueError, match="deterministic"):
        Direct(flow)
