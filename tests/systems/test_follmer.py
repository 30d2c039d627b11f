"""From a point to the data: any noise has the same marginals, and Follmer's moves the law least."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import functools
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import kedge
from kedge import Denoiser, grids, solvers
from kedge.nets import MLP
from kedge.paths import FromPoint
from kedge.tree import sum_event
from kedge.walk.hooks import Record
from kedge.walk.solvers import FreeSDE
from sliced import sliced
from walk.oracles import PATHS, geometric, mixture

pytestmark = pytest.mark.system

f64 = torch.float64
POINT, SQUARE = FromPoint(), FromPoint(p=2.0)


@pytest.mark.parametrize("path", [POINT, SQUARE, FromPoint(p=1.5)], ids=str)
def test_the_interpolant_and_its_times(path: FromPoint) -> None:
    """`b x + s W` with b = tau^p, s = 1 - tau at tau = 1 - t; slopes by autograd; times back from the log-SNR."""
    t = torch.linspace(0.02, 0.98, 25, dtype=f64).requires_grad_()
    tau = 1 - t
    torch.testing.assert_close(path.alpha(t), tau**path.p)
    torch.testing.assert_close(path.sigma(t), (1 - tau) * tau.sqrt())
    for name in ("alpha", "sigma"):
        (slope,) = torch.autograd.grad(getattr(path, name)(t).sum(), t)
        torch.testing.assert_close(getattr(path, "d_" + name)(t), slope)
    torch.testing.assert_close(path.log_snr(t), 2 * (path.alpha(t) / path.sigma(t)).log())
    for u in (path.t_min, 0.3, 0.9, path.t_max):
        assert path.time_of(path.log_snr(u)) == pytest.approx(u, rel=1e-9)
        at = torch.tensor([u], dtype=f64)
        torch.testing.assert_close(path.time_of(path.log_snr(at)), at, rtol=1e-9, atol=0)


def test_follmers_noise_is_the_ancestral_one() -> None:
    """`g_F^2 = 2 tau s (s b' / b - s') - s^2` is `2 sigma^2 dlambda / dtau`: 1 - tau^2 where b = tau, s = 1 - tau. So
    noise 1 is DDPM, draw for draw, and noise 0 DDIM.
    """
    t = torch.linspace(0.05, 0.95, 10, dtype=f64).requires_grad_()
    for path in (POINT, SQUARE):
        tau, s = (1 - t).detach(), t.detach()
        follmer = 2 * tau * s * (s * path.p / tau + 1) - s**2
        (slope,) = torch.autograd.grad(path.log_snr(t).sum() / 2, t)
        torch.testing.assert_close(-2 * path.sigma(t).detach() ** 2 * slope, follmer)
    torch.testing.assert_close((2 * tau * s * (s / tau + 1) - s**2), 1 - tau**2)
    x = POINT.prior((16, 2), seeds=0, dtype=f64)
    for noise, same in ((1.0, solvers.DDPM()), (0.0, solvers.DDIM())):
        ours, theirs = (
            kedge.sample(mixture().denoiser(POINT), x, grids.Uniform(9), s, seeds=3) for s in (FreeSDE(noise), same)
        )
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_its_own_noise_is_what_is_left_of_the_motion() -> None:
    """`int s^2 dtau / (2 sigma^2)` by the midpoint rule."""
    n, t, s = 20_000, 0.9, 0.2
    u = t + (torch.arange(n, dtype=f64) + 0.5) / n * (s - t)
    exact = float((u**2 / (2 * POINT.sigma(u) ** 2)).mean() * (t - s))
    assert POINT.own_noise(t, s) == pytest.approx(exact, rel=1e-7)
    with pytest.raises(ValueError, match="of a path that has noise of its own"):
        kedge.sample(mixture().denoiser(PATHS["VP"]), torch.zeros(1, 2), grids.Uniform(3), FreeSDE("own"))


NOISES: list[Any] = [0.0, 0.25, 1.0, 2.0, "own"]


@pytest.mark.parametrize("noise", NOISES)
def test_any_noise_ends_in_the_law(noise: Any) -> None:
    """From the point, in 100 steps: within the distance of two sets of exact samples, and what steps leave."""
    N = 3000
    grid = grids.LogSNR(100, scale_min=0.01)
    x = kedge.sample(mixture().denoiser(POINT), POINT.prior((N, 2), seeds=0, dtype=f64), grid, FreeSDE(noise), seeds=1)
    assert sliced(x, mixture().sample(N, 9)) < 0.045
    share = float((x[:, 0] > 0).double().mean())
    exact = float((mixture().sample(200_000, seeds=3)[:, 0] > 0).double().mean())
    assert abs(share - exact) < 4.5 * math.sqrt(exact * (1 - exact) / N) + 0.01


class Wrong:
    """The exact denoiser, off by an error that depends on the SNR alone."""

    def __init__(self, path: FromPoint) -> None:
        self.path, self.exact = path, mixture().denoiser(path)

    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        return self.exact(x_t, t) + 0.3 / (1 + math.exp(self.path.log_snr(t)))


HIGH, LOW = 30.0, 0.03
"""Noise scales between which the divergence is taken."""


@functools.cache
def divergence(path: FromPoint, noise: Any, steps: int = 100) -> float:
    """Of the exact walk's law from the wrong one's: the sum of those of its steps, Girsanov's in the limit."""
    record = Record()
    levels = grids.Levels(geometric(path, HIGH, LOW, steps))
    walk = kedge.Walk(mixture().denoiser(path), FreeSDE(noise), levels, hooks=(record,))
    walk.run(path.sigma(path.time_at(HIGH)) * torch.randn(1, 2, dtype=f64), seeds=0)
    others = walk.replay(record, Wrong(path))
    steps_kl = [sum_event(s.kernel.kl(o)) for s, o in zip(record.steps, others, strict=True)]
    return float(torch.stack(steps_kl).sum(0).mean())


def test_follmers_noise_moves_the_law_least_and_alike_on_every_schedule() -> None:
    """`int (1 + r)^2 / (4 r) |e|^2 dSNR / 2`; at r = 1 the steps' own divergences are `|e|^2 (SNR_s - SNR_t) / 2`."""
    snr = [POINT.noise_scale(t) ** -2 for t in geometric(POINT, HIGH, LOW, 100)]
    exact = sum(0.09 / (1 + a) ** 2 * (b - a) for a, b in pairwise(snr))
    found = {noise: divergence(POINT, noise) for noise in (0.25, 1.0, 4.0, "own")}
    assert min(found, key=lambda noise: found[noise]) == 1.0
    assert found[1.0] == pytest.approx(exact, rel=1e-6)
    for r in (0.25, 4.0):  # at steps of .07 in log-SNR / 2
        assert found[r] == pytest.approx(exact * (1 + r) ** 2 / (4 * r), rel=0.06)
    assert abs(found[1.0] / divergence(SQUARE, 1.0) - 1) < 0.02


def test_steps_are_exact_for_an_estimate_that_stays() -> None:
    """One step and ten have the same law: mean and variance by their coefficients."""
    for noise in NOISES:
        solver = FreeSDE(noise)
        levels = [0.9 - 0.08 * i for i in range(11)]
        mean, weight, variance = 1.0, 0.0, 0.0
        for a, b, std in solver.plan(POINT, levels):
            mean, weight, variance = a * mean, a * weight + b, a * a * variance + std**2
        (one,) = solver.plan(POINT, [levels[0], levels[-1]])
        assert (mean, weight, variance) == pytest.approx((one[0], one[1], one[2] ** 2), rel=1e-9, abs=1e-12)


def test_levels_of_entries_and_keyed_noise() -> None:
    t = torch.tensor([0.9, 0.5, 0.2], dtype=f64)
    for noise in NOISES:
        ((a, b, std),) = FreeSDE(noise).plan(POINT, [t[None], torch.tensor([[0.5, 0.5, 0.0]], dtype=f64)])
        for k, s in enumerate((0.5, 0.5, 0.0)):
            one = FreeSDE(noise).plan(POINT, [float(t[k]), s])[0]
            got = [float(torch.as_tensor(c).expand(1, 3)[0, k]) for c in (a, b, std)]
            assert got == pytest.approx((1.0, 0.0, 0.0) if k == 1 else one, rel=1e-9, abs=1e-12)
    denoiser = mixture().denoiser(POINT)
    x = POINT.prior((4, 2), seeds=[1, 2, 3, 4], dtype=torch.float32)
    whole = kedge.sample(denoiser, x, grids.Uniform(6), FreeSDE("own"), seeds=[1, 2, 3, 4])
    alone = kedge.sample(denoiser, x[2:3], grids.Uniform(6), FreeSDE("own"), seeds=[3])
    assert whole.dtype == torch.float32
    torch.testing.assert_close(whole[2:3], alone, atol=1e-5, rtol=1e-5)


@functools.cache
def forecaster() -> Denoiser:
    """Of the next state of a double well, from the state: a small network, 1500 steps."""
    torch.manual_seed(0)
    net = MLP(1, width=64, depth=2, expansion=2, activation="silu", embed=16, cond={"state": 1})
    denoiser = Denoiser(net, POINT, "edm", sigma_data=1.0)
    adam = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(1500):
        state = 3 * torch.rand(256, 1) - 1.5
        x, t = well(state), 0.001 + 0.998 * torch.rand(256, dtype=f64)
        error = denoiser(POINT.perturb(x, t, torch.randn_like(x)), t, kedge.Cond.of(state=state)) - x
        weight = torch.as_tensor(denoiser.preconditioning(t)[2]) ** -2
        adam.zero_grad()
        (weight.float()[:, None] * error**2).mean().backward()
        adam.step()
    return denoiser


def well(state: Tensor) -> Tensor:
    """Where `dx = 4 (x - x^3) dt + dW` takes a state in a time of 1, by 50 small steps, less the state."""
    x = state
    for _ in range(50):
        x = x + 0.02 * 4 * (x - x**3) + math.sqrt(0.02) * torch.randn_like(x)
    return x - state


@pytest.mark.slow
def test_a_network_forecasts_from_a_point() -> None:
    """The law of the next state, from one state between the wells: Follmer's noise is no further from it than the
    interpolant's own, at 20 and at 50 steps.
    """
    N = 4000
    state = torch.full((N, 1), 0.1)
    torch.manual_seed(1)
    law = well(state)
    for n in (20, 50):
        found = {}
        for noise in (1.0, "own"):
            x = POINT.prior((N, 1), seeds=0, dtype=torch.float32)
            cond = kedge.Cond.of(state=state)
            x = kedge.sample(forecaster(), x, grids.Uniform(n), FreeSDE(noise), cond=cond, seeds=1)
            found[noise] = sliced(x, law)
        assert found[1.0] <= found["own"]
        assert found[1.0] < 0.15
