"""The law of the start: its gradient and its best, where a walk is linear and a reward quadratic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from align.gaussian_walk import DIM, PATH
from align.linear_start import REWARD, A, law, line, reward
from kedge import Cond, Noise, Walk
from kedge.align import OwnStarts, Start, StartGradient
from kedge.train import AdamW, Tick, Trainer

f64 = torch.float64
TICK = Tick(3, 5)


def expected(start: Start, made: Walk) -> Tensor:
    """`E r(s z + o) = r(s m + o) - tr(A s std^2 s) / 2`."""
    slope, offset = line(made)
    spread = (A.diagonal() * slope**2 * (2 * start.log_std).exp()).sum() / 2
    return REWARD((slope * start.mean + offset)[None])[0] - spread


def at(start: Start, seed: int = 2) -> Start:
    with torch.no_grad():
        for p in start.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed), dtype=f64))
    return start


def test_starts_have_their_law_and_their_density() -> None:
    made, start = law()
    at(start)
    z = start.draw(20_000, seeds=1) / start.sigma
    exact = torch.distributions.Normal(start.mean.detach(), start.log_std.exp().detach())
    assert bool(((z.mean(0) - exact.mean).abs() < 4 * exact.stddev / 20_000**0.5).all())
    assert bool(((z.std(0) / exact.stddev - 1).abs() < 4 / (2 * 20_000) ** 0.5).all())
    torch.testing.assert_close(start.log_prob(z).detach(), exact.log_prob(z), rtol=1e-12, atol=1e-12)
    normal = torch.distributions.Normal(torch.zeros(DIM, dtype=f64), torch.ones(DIM, dtype=f64))
    divergence = torch.distributions.kl_divergence(exact, normal).sum()
    torch.testing.assert_close(start.divergence().detach(), divergence, rtol=1e-12, atol=1e-12)
    assert start.sigma == pytest.approx(PATH.sigma(float(made.grid.levels(PATH).t[0])))
    assert start.draw(3, seeds=4).equal(start.draw(3, seeds=4))


def test_it_is_the_gradient_of_the_expected_reward() -> None:
    """In mean and spread, within 4 standard errors, whatever its baseline says."""
    made, start = law()
    method = StartGradient(at(start))
    with torch.no_grad():
        method.value[2].get_parameter("bias").fill_(-0.7)
    found = []
    for step in range(50):
        batch = OwnStarts(start, made, 200, reward).next(Tick(step, 5))
        slopes = torch.autograd.grad(method(batch, TICK)[0].mean(), [start.mean, start.log_std])
        found.append(-torch.cat(slopes))
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / 50**0.5
    exact = torch.cat(torch.autograd.grad(expected(start, made), [start.mean, start.log_std]))
    assert bool(((mean - exact).abs() < 4 * error).all())
    assert bool((exact.abs() > 8 * error).any()), "the test sees it"


def test_a_start_that_has_moved_far_enough_pushes_no_more() -> None:
    made, start = law()
    for average in (False, True):
        method = StartGradient(start, clip=0.1, average=average, penalty=0.5)
        batch = OwnStarts(start, made, 16, reward).next(TICK)
        torch.testing.assert_close(start.log_prob(batch.z), batch.old, rtol=0, atol=0)
        at(start)
        gone = (start.log_prob(batch.z) - batch.old).detach()
        r = (gone.mean(1) if average else gone.sum(1)).exp()
        by_hand = -torch.minimum(r * batch.reward, r.clamp(0.9, 1.1) * batch.reward) + batch.reward**2
        by_hand = by_hand + 0.5 * start.divergence().detach()
        torch.testing.assert_close(method(batch, TICK)[0].detach(), by_hand, rtol=1e-9, atol=1e-12)


def test_the_baseline_learns_what_the_law_is_worth_as_it_moves() -> None:
    made, start = law()
    method = StartGradient(start)
    source = OwnStarts(start, made, 64, reward)
    Trainer([method.part(AdamW(2e-2, warmup=0))], source, 80, progress=False).train()
    value = float(method(source.next(Tick(100, 5)), TICK)[1]["value"])
    now, then = (float(expected(s, made).detach()) for s in (start, Start(made, (DIM,), dtype=f64)))
    assert now > then + 0.3
    assert value == pytest.approx(now, abs=0.1 * (now - then))
    batches = [source.next(Tick(step, 6)) for step in range(100, 120)]

    def noise() -> float:
        slopes = [torch.autograd.grad(method(batch, TICK)[0].mean(), start.mean)[0] for batch in batches]
        return float(torch.stack(slopes).var(0).sum())

    here = noise()
    with torch.no_grad():
        method.value[2].get_parameter("bias").sub_(3.0)
    assert here < noise() / 3, "than with a word that is off by three"


def test_what_failed_pushes_nothing_and_a_condition_is_heard() -> None:
    made, start = law()

    def told(x: Any, cond: Any) -> Tensor:
        return torch.where(torch.arange(8) == 3, torch.nan, REWARD(x) + cond.fields["goal"][:, 0])

    class Hears:
        path = PATH

        def __call__(self, x: Tensor, t: float, cond: Cond) -> Tensor:
            return made.denoiser(x, t) + 0 * cond.fields["goal"]

    heard = Walk(Hears(), made.solver, made.grid)
    cond = Cond.of(goal=torch.full((1, 1), 7.0, dtype=f64))
    batch = OwnStarts(start, heard, 8, told, cond).next(TICK)
    assert batch.counts is not None
    assert batch.counts.tolist() == [True, True, True, False, True, True, True, True]
    plain = OwnStarts(start, made, 8, reward).next(TICK)
    torch.testing.assert_close(batch.reward[0], plain.reward[0] + 7, rtol=1e-12, atol=1e-12)
    method = StartGradient(start)
    with torch.no_grad():
        method.value[2].get_parameter("bias").fill_(2.0)
    loss = method(batch, TICK)[0]
    assert float(loss[3].detach()) == 0
    assert float(method(replace(batch, counts=None), TICK)[1]["failed"]) == 0


def test_starts_are_keyed_by_the_tick() -> None:
    made, start = law()
    source = OwnStarts(start, made, 8, reward)
    assert source.next(TICK).z.equal(source.next(TICK).z)
    assert not source.next(TICK).z.equal(source.next(Tick(4, 5)).z)
    assert not Noise.of(0, 8).normal((8, DIM), 3).equal(source.next(TICK).z)
