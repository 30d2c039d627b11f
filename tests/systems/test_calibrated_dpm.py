"""Calibration: the mean error of a denoiser, measured once, is taken off; by exact denoisers and by networks that were
trained too little.
"""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kedge
from kedge import Cond
from kedge.distill import calibrated, store_calibration, stored_calibration
from kedge.errors import InputError
from kedge.exact import GaussianMixture
from kedge.guide import Calibrated
from kedge.noise import Noise
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.hooks import Record
from kedge.walk.solvers import DDPM, DPMSolverPP
from walk.oracles import PATHS, Spy, f64, mixture, start

pytestmark = pytest.mark.system

VP = PATHS["VP"]
GRID = LogSNR(10, 0.02, 50.0)
LEVELS = [float(t) for t in GRID.levels(VP).t[:-1]]
SEEDS = range(5)


def law() -> GaussianMixture:
    """Off the middle, so that there is a mean to miss."""
    return GaussianMixture([0.3, 0.7], torch.tensor([[-1.0, 0.5], [1.0, 1.0]], dtype=f64), [0.05, 0.1])


def bias(t: float) -> Tensor:
    return torch.tensor([0.3 * math.sin(5 * t), 0.1 + t], dtype=f64)


def noised(count: int, t: float, seed: int, data: GaussianMixture | None = None) -> tuple[Tensor, Tensor]:
    """Clean and noised samples."""
    x = (data or law()).sample(count, seed)
    return x, VP.perturb(x, t, VP.noise(x, Noise.of(seed + 50, count), 7))


def test_an_injected_bias_is_found_to_the_error_of_the_mean() -> None:
    exact, n = mixture().denoiser(VP), 4000
    biased = Spy(VP, lambda x, t: exact(x, t) + bias(t))
    rule = calibrated(biased, mixture().sample(n, 1), GRID)
    right = rule.on(biased)
    for t in LEVELS:
        _, x_t = noised(200, t, 3, mixture())
        error = mixture().posterior_covariance(VP, x_t, t).diagonal(dim1=1, dim2=2).mean(0).sqrt() / math.sqrt(n)
        off = right(x_t, t) - exact(x_t, t)
        assert bool((off.abs() <= 4.5 * error).all()), (t, off[0], error)
        assert float(bias(t).norm()) > 0.1


@cache
def trained(seed: int) -> kedge.Denoiser:
    """A small network after fifteen steps."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 2))
    D = kedge.Denoiser(lambda x, told: net(torch.cat([x, told[:, None]], 1)), VP, "edm", sigma_data=1.0)
    adam = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(15):
        x, r = law().sample(64, 100 * seed + step).float(), torch.exp(7 * torch.rand(64) - 3.5)
        t = VP.time_at(r)
        error = (D(VP.perturb(x, t), t) - x).square().sum(1) / r**2
        adam.zero_grad()
        error.mean().backward()
        adam.step()
    return D


@cache
def rule(seed: int) -> Calibrated:
    return calibrated(trained(seed), law().sample(6000, 200 + seed).float(), GRID, batch=6000)


def test_the_loss_falls_by_half_the_square_of_the_mean_score() -> None:
    """With fresh noise on the data, at each level, and so does what bounds the likelihood, whose integrand this is."""
    data, fell, promised = law().sample(10_000, 200), [], []
    x, D = data.repeat(2, 1), trained(0)
    found = calibrated(D, data.float(), GRID, batch=10_000)
    z = VP.noise(data, Noise.of(7, 10_000), 0)
    assert isinstance(z, Tensor)
    for i, t in enumerate(LEVELS):
        assert isinstance(found.shift, Tensor)
        x_t = VP.perturb(x, t, torch.cat([z, -z])).float()
        scale = VP.alpha(t) / VP.sigma(t) ** 2
        with torch.no_grad():
            before, after = (0.5 * float((scale * (d(x_t, t) - x)).square().sum(1).mean()) for d in (D, found.on(D)))
        fell.append((before - after) / before)
        promised.append(0.5 * float((scale * found.shift[0, i]).square().sum()) / before)
    print([f"{f:.4f} (promised {p:.4f})" for f, p in zip(fell, promised, strict=True)])
    assert min(promised) > 0.005
    for f, p in zip(fell, promised, strict=True):
        assert f > 0
        assert abs(f / p - 1) < 0.02


def sliced(a: Tensor, b: Tensor) -> float:
    """The sliced 2-Wasserstein distance."""
    side = torch.linspace(0, math.pi, 33, dtype=f64)[:-1]
    ways = torch.stack([side.cos(), side.sin()])
    return float(((a.double() @ ways).sort(0).values - (b @ ways).sort(0).values).square().mean().sqrt())


def test_samples_of_few_steps_are_nearer_to_the_law() -> None:
    """Ten steps of DPM-Solver++(2M), over five networks."""
    away = []
    for seed in SEEDS:
        x, wanted = start(VP, LEVELS[0], (3000, 2), seed).float(), law().sample(3000, 400 + seed)
        both = [kedge.sample(D, x, GRID, DPMSolverPP(2)) for D in (trained(seed), rule(seed).on(trained(seed)))]
        away.append([sliced(end, wanted) for end in both])
    plain, ours = (sum(one[i] for one in away) / len(away) for i in range(2))
    print(f"sliced W2 {plain:.3f} -> {ours:.3f}", away)
    assert ours <= 0.85 * plain


def test_the_score_is_a_martingale_of_the_reverse_process() -> None:
    """`E[alpha_t score_t | x_T]` stays what it was, for either half of the x_T."""
    record, n = Record(), 4000
    D, x = law().denoiser(VP), law().marginal(VP, VP.time_at(3.0)).sample(n, 1)
    kedge.sample(D, x, LogSNR(60, 0.2, 3.0), DDPM(), hooks=[record], seeds=2)
    scores = []
    for state in record.states:
        assert isinstance(state.x, Tensor)
        scores.append(VP.alpha(state.t) * VP.convert(D(state.x, state.t), state.x, state.t, "clean", "score"))
    for half in (x[:, 0] > x[:, 0].median(), x[:, 0] <= x[:, 0].median()):
        first = scores[0][half]
        assert float(first.mean(0).abs().max()) > 0.1
        for score in scores[20::20]:
            change = score[half] - first
            assert bool((change.mean(0).abs() < 4 * change.std(0) / math.sqrt(len(change))).all())


@pytest.mark.parametrize("quantity", ["eps", "velocity"])
def test_in_every_quantity_its_mean_becomes_that_of_the_data(quantity: Any) -> None:
    """On the sample that it was measured on, `eps - E[eps_theta] + E[z]`, to rounding; the velocity likewise."""
    D, x, t, n = Spy(VP, lambda x, t: 0.4 * x + 0.3), law().sample(500, 1), LEVELS[4], 500
    z = VP.noise(x, Noise.of(0, n), 0, 4)
    x_t = VP.perturb(x, t, z)
    right = calibrated(D, x, Levels([t, 0.0]), passes=1).on(D)
    true = VP.convert(x, x_t, t, "clean", quantity)
    plain, ours = (VP.convert(one(x_t, t), x_t, t, "clean", quantity) for one in (D, right))
    torch.testing.assert_close(ours, plain - plain.mean(0) + true.mean(0), rtol=0, atol=1e-10)


class Told(nn.Module):
    """What it says is off by what it is told."""

    def forward(self, x: Tensor, told: Tensor, cond: Cond) -> Tensor:
        return 0.5 * x + cond.fields["k"]


def which(cond: Cond) -> Tensor:
    return cond.fields["k"][:, 0].long()


def test_each_condition_has_a_mean_of_its_own(tmp_path: Path) -> None:
    D, k = kedge.Denoiser(Told(), VP, "clean"), torch.arange(600).remainder(3).double()[:, None]
    x, cond = 0.1 * start(VP, 0.0, (600, 2)) + k, Cond.of(k=k)
    found = calibrated(D, x, LogSNR(2, 0.1, 1.0), cond, group=which, batch=77)
    store_calibration(tmp_path, found)
    same = stored_calibration(tmp_path, which)
    t = VP.time_at(0.1)
    x_t = VP.perturb(x, t, VP.noise(x, Noise.of(9, 600), 0))
    for one in (found, same):
        error = one.on(D)(x_t, t, cond) - x
        for group in range(3):
            assert float(error[k[:, 0] == group].mean(0).abs().max()) < 0.03
    with pytest.raises(InputError, match="calibrated for 3 groups: say by `group` which is which"):
        stored_calibration(tmp_path)


def test_between_levels_and_for_levels_of_entries() -> None:
    """Linear in the log-SNR, constant beyond, nothing where it is clean; and the same whoever says the level."""
    D, shift = Spy(VP, lambda x, t: x), torch.tensor([[[1.0, 10.0], [3.0, 30.0]]], dtype=f64)
    guided = Calibrated((-2.0, 2.0), shift).on(D)
    zero = torch.zeros(1, 2, dtype=f64)
    for log_snr, wanted in ((-5.0, 1.0), (-2.0, 1.0), (0.0, 2.0), (1.0, 2.5), (2.0, 3.0), (9.0, 3.0)):
        t = VP.time_of(log_snr)
        for level in (t, torch.tensor([t], dtype=f64), torch.full((1, 2), t, dtype=f64)):
            found = guided(zero, level)
            torch.testing.assert_close(found, -wanted * torch.tensor([[1.0, 10.0]], dtype=f64), rtol=1e-9, atol=1e-12)
    mixed = guided(zero, torch.tensor([[VP.time_of(0.0), 0.0]], dtype=f64))
    torch.testing.assert_close(mixed, torch.tensor([[-2.0, 0.0]], dtype=f64), rtol=1e-9, atol=1e-12)
    assert torch.equal(guided(zero, 0.0), zero)
    assert guided(zero.float(), VP.time_of(0.0)).dtype == torch.float32


def test_what_is_pinned_stays_clean_and_has_no_mean() -> None:
    known, x = torch.tensor([True, False]), law().sample(300, 0)
    D = Spy(VP, lambda x, t: x + 0.5, pinned="clean")
    found = calibrated(D, x, LogSNR(2, 0.1, 1.0), known=known)
    assert isinstance(found.shift, Tensor)
    assert bool((found.shift[..., 0] == 0).all())
    assert float(found.shift[..., 1].abs().min()) > 0.1
    for x_t, _ in D.calls:
        assert torch.equal(x_t[:, 0], x[:, 0])
