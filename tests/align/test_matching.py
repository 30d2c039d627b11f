"""Matching: its gradient is that of a weighted denoising loss, its ratio a likelihood ratio, where both are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from align.gaussian_walk import DIM, MEAN, PATH, STD
from kedge import Cond, Denoiser, Noise, Walk, grids, hooks, solvers
from kedge.align import Kept, Matching, Measured, OwnWalks, PolicyGradient, Recorded, Relative
from kedge.fit import Draw
from kedge.paths.gaussian import GaussianPath
from kedge.train import AdamW, Tick

f64 = torch.float64
TICK = Tick(3, 5)
SLOPE = torch.tensor([0.5, -0.3, 0.2], dtype=f64)


def linear(x: Any, cond: Any = None) -> Tensor:
    return x @ SLOPE


def first_entry(x: Any, cond: Any = None) -> Tensor:
    return x[:, 0]


class Law(nn.Module):
    """`E[x | x_t]` of data `N(m, e^{2 s})`, the same in every entry: its own likelihood is known."""

    def __init__(self, m: float = MEAN, std: float = STD) -> None:
        super().__init__()
        self.path = PATH
        self.m, self.s = (nn.Parameter(torch.tensor(v, dtype=f64)) for v in (m, math.log(std)))

    def forward(self, x: Tensor, t: Any) -> Tensor:
        t = torch.as_tensor(t, dtype=f64).reshape(-1, 1)
        alpha, sigma = PATH.alpha(t), PATH.sigma(t)
        V = (2 * self.s).exp()
        return self.m + alpha * V / (alpha**2 * V + sigma**2) * (x - alpha * self.m)

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.distributions.Normal(self.m, self.s.exp()).log_prob(x).sum(-1)


def law(solver: Any = None, steps: int = 6) -> Walk:
    return Walk(Law(), solver or solvers.DDIM(), grids.LogSNR(steps, 0.1, 1000.0))


def walks(made: Walk, count: int = 8, step: int = 3, **options: Any) -> Recorded:
    return OwnWalks(made, (DIM,), count, linear, dtype=f64, **options).next(Tick(step, 5))


def slopes(made: Matching, batch: Recorded) -> tuple[Tensor, ...]:
    return torch.autograd.grad(made(batch, TICK)[0].mean(), list(made.denoiser.parameters()))


@pytest.mark.parametrize("solver", [solvers.DDIM(), solvers.DPMSolverPP(order=2), solvers.DDIM(1.0)], ids=str)
@pytest.mark.parametrize("clip", [None, 0.05])
def test_where_nothing_has_moved_it_is_the_weighted_denoising_loss(solver: Any, clip: float | None) -> None:
    """`mean A |eps_hat - z|^2`, whichever solver drew, with or without densities; written down here from the draws."""
    made = Matching(law(solver), [Relative()], clip=clip, draws=5, space="eps", scale=0.7)
    batch = replace(walks(made.walk), errors=None if clip is None else made.errors(walks(made.walk)).detach())
    x, draw, _, _ = made._asked(batch)
    alpha, sigma = (f(draw.t)[:, None] for f in (PATH.alpha, PATH.sigma))
    x_t = alpha * x + sigma * draw.z
    eps_hat = (x_t - alpha * made.denoiser(x_t, draw.t)) / sigma
    A = (batch.reward - batch.reward.mean()).repeat(5)
    loss = 0.7 * (A * ((eps_hat - draw.z) ** 2).mean(1)).mean()
    expected = torch.autograd.grad(loss, list(made.denoiser.parameters()))
    for one, other in zip(slopes(made, batch), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    bins = (draw.t.reshape(5, 8) / (PATH.t_max - PATH.t_min) * 5).long()
    assert bins.equal(torch.arange(5)[:, None].expand(5, 8)), "one level in each bin, for each sample"
    assert x.reshape(5, 8, DIM)[3].equal(batch.record.x[-1])  # type: ignore[arg-type]


def test_a_ratio_is_1_before_an_update_and_hears_the_same_draws_after_it() -> None:
    made = Matching(law(), clip=0.05, ratio="sample")
    source = Kept(Measured(OwnWalks(made.walk, (DIM,), 8, linear, dtype=f64), made), times=3)
    first = source.next(TICK)
    assert first.errors is not None
    assert first.errors.equal(made.errors(first)), "r = 1 to the last bit"
    with torch.no_grad():
        made.denoiser.m.add_(0.1)
    again = source.next(Tick(4, 5))
    assert again.errors is first.errors
    with torch.no_grad():
        made.denoiser.m.sub_(0.1)
    torch.testing.assert_close(made.errors(again), first.errors, rtol=1e-12, atol=1e-14)
    resumed = Kept(Measured(source.source.source, made), times=3)  # type: ignore[attr-defined]
    resumed.load(source.state())
    third = resumed.next(Tick(5, 5))
    assert third.errors is not None
    assert third.errors.equal(first.errors)
    assert made.errors(third).equal(made.errors(again)), "the same draws after a resume"
    fresh = walks(made.walk, step=9)
    assert not made._asked(fresh).draw.t.equal(made._asked(first).draw.t)


@pytest.mark.parametrize("ratio", ["draw", "sample"])
def test_what_has_moved_far_enough_pushes_no_more(ratio: Any) -> None:
    """By hand: `-min(r A, clip(r) A)`, of each draw, or of the mean of the draws."""
    made = Matching(law(), [Relative()], clip=0.05, ratio=ratio, draws=3)
    batch = Measured(OwnWalks(made.walk, (DIM,), 16, linear, dtype=f64), made).next(TICK)
    with torch.no_grad():
        made.denoiser.m.add_(0.3)
    assert batch.errors is not None
    gone = batch.errors - made.errors(batch)
    r = (gone.mean(0, keepdim=True) if ratio == "sample" else gone).exp()
    A = batch.reward - batch.reward.mean()
    loss, info = made(batch, TICK)
    torch.testing.assert_close(loss, -torch.minimum(r * A, r.clamp(0.95, 1.05) * A).mean(0), rtol=1e-12, atol=1e-14)
    cut = ((r > 1.05) & (A > 0)) | ((r < 0.95) & (A < 0))
    assert 0.1 < float(info["clipped"]) == pytest.approx(float(cut.double().mean()))


@dataclass(frozen=True)
class EvenInLogSNR:
    """All of `[-half, half]` alike."""

    half: float = 7.0

    def times(self, path: GaussianPath, u: Tensor) -> Tensor:
        return path.time_of((1 - 2 * u) * self.half)

    def draw(self, path: GaussianPath, x: Any, noise: Noise, step: int) -> Draw:
        raise NotImplementedError


def test_its_ratio_is_that_of_the_likelihoods() -> None:
    """`E l = -1/2 int |eps_hat - z|^2 d log-SNR`, which for the exact denoiser of a law is its log-likelihood. One draw
    is a noisy word on it; the mean of many is the thing itself, within 4 standard errors for each sample.
    """
    proposal = EvenInLogSNR()
    made = Matching(
        law(), draws=1600, proposal=proposal, space="eps", scale=proposal.half, average=False, ratio="sample", clip=0.2
    )
    batch = walks(made.walk, 40)
    x = batch.record.x[-1]
    assert isinstance(x, Tensor)
    old = Law()
    with torch.no_grad():
        made.denoiser.m.add_(0.15)
        made.denoiser.s.add_(0.1)
        exact = made.denoiser.log_prob(x) - old.log_prob(x)
        log_r = proposal.half * (made.errors(batch, old) - made.errors(batch))
    error = log_r.std(0) / 1600**0.5  # an upper bound: the bins only help
    assert bool(((log_r.mean(0) - exact).abs() < 4 * error).all())
    assert float(torch.corrcoef(torch.stack([log_r.mean(0), exact]))[0, 1]) > 0.99
    assert float(torch.corrcoef(torch.stack([log_r[::16].mean(0), exact]))[0, 1]) > 0.9, "of a hundred draws"


def test_conditions_are_heard_and_pinned_entries_are_not_denoised() -> None:
    told: list[Any] = []

    def net(x: Tensor, level: Tensor, cond: Cond) -> Tensor:
        told.append(cond.fields["goal"])
        return 0.1 * x + cond.fields["goal"]

    def goals(count: int, noise: Noise) -> Cond:
        return Cond.of(goal=noise.normal((count, 1), 0))

    mask = torch.tensor([True, False, False])
    pin = hooks.Pin(mask, torch.full((DIM,), 5.0, dtype=f64))
    made = Walk(Denoiser(net, PATH, "clean", pinned="clean"), solvers.DDIM(), grids.LogSNR(2), [pin])
    batch = walks(made, each=2, conditions=goals)
    method = Matching(made, draws=3, space="clean")
    x, draw, _, _ = method._asked(batch)
    found = method.errors(batch)
    assert told[-1].equal(batch.record.states[0].given.fields["goal"].repeat(3, 1))
    x_t = PATH.perturb(x, draw.t, draw.z)
    assert isinstance(x, Tensor)
    by_hand = (0.1 * x_t + told[-1] - x)[:, 1:].pow(2).sum(1) / DIM
    torch.testing.assert_close(found, by_hand.reshape(3, 8), rtol=1e-9, atol=1e-12)
    held = Matching(made, draws=3, space="clean", penalty=1.0)
    vars(held.reference.module)["net"] = lambda x, level, cond: net(x, level, cond) + 1.0
    apart = held(batch, TICK)[0] - method(batch, TICK)[0]
    torch.testing.assert_close(apart, torch.full((8,), 2 / DIM, dtype=f64), rtol=1e-9, atol=1e-12)


def test_penalties_are_distances_of_estimates() -> None:
    made = Matching(law(), [Relative()], space="clean", penalty=0.7, trust=0.3, memory=0.5, draws=2)
    plain = Matching(made.walk, [Relative()], space="clean", draws=2)
    batch = walks(made.walk)
    part = made.part(AdamW(1e-3))
    assert made.recent is not None
    assert plain.recent is None
    start = float(made.denoiser.m.detach())
    with torch.no_grad():
        made.denoiser.m.add_(0.4)
    for shadow in part.shadows:
        shadow.update()
    assert float(made.recent.module.get_parameter("m")) == pytest.approx(start + 0.2)
    assert float(made.reference.module.get_parameter("m")) == start
    x, draw, _, _ = made._asked(batch)
    x_t = PATH.perturb(x, draw.t, draw.z)

    def apart(other: nn.Module) -> Tensor:
        return ((made.denoiser(x_t, draw.t) - other(x_t, draw.t)) ** 2).mean(1).reshape(2, 8).mean(0)

    expected = plain(batch, TICK)[0] + 0.7 * apart(made.reference.module) + 0.3 * apart(made.recent.module)
    loss, info = made(batch, TICK)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    assert float(info["divergence"]) == pytest.approx(4 * float(info["moved"]), rel=1e-6), "twice as far"
    velocity = Matching(made.walk, [Relative()], space="velocity", penalty=0.7, draws=2)
    velocity.reference.load({"calls": 0, "module": made.reference.module.state_dict()})
    gone = velocity(batch, TICK)[0] - Matching(made.walk, [Relative()], space="velocity", draws=2)(batch, TICK)[0]
    factor = PATH.to_clean("velocity", draw.t)[1] ** -2
    by_hand = ((made.denoiser(x_t, draw.t) - made.reference.module(x_t, draw.t)) ** 2).mean(1) * factor
    torch.testing.assert_close(gone, 0.7 * by_hand.reshape(2, 8).mean(0), rtol=1e-9, atol=1e-12)


def gain(t: Any) -> Any:
    alpha, sigma = PATH.alpha(t), PATH.sigma(t)
    return alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)


class Levelled(nn.Module):
    """The exact denoiser with a shift for each level and each walk of its own: every walk shows its own gradient."""

    def __init__(self, times: list[float], count: int) -> None:
        super().__init__()
        self.path, self.times = PATH, torch.tensor(times, dtype=f64)
        self.b = nn.Parameter(torch.zeros(count, len(times), 1, dtype=f64))

    def forward(self, x: Tensor, t: Any) -> Tensor:
        t = torch.as_tensor(t, dtype=f64).expand(len(x))
        level = (t[:, None] - self.times).abs().argmin(1)
        row = torch.arange(len(x)) % len(self.b)
        t = t[:, None]
        return MEAN + gain(t) * (x - PATH.alpha(t) * MEAN) + self.b[row, level]


@dataclass(frozen=True)
class AtLevels:
    """One of these levels."""

    at: tuple[float, ...]

    def times(self, path: GaussianPath, u: Tensor) -> Tensor:
        return torch.tensor(self.at, dtype=f64)[(u * len(self.at)).long()]

    def draw(self, path: GaussianPath, x: Any, noise: Noise, step: int) -> Draw:
        raise NotImplementedError


def noise_to_signal(g: Tensor) -> tuple[Tensor, Tensor]:
    """Variance over squared mean of each column, and its standard error (by the delta method)."""
    m, q = g.mean(0), (g**2).mean(0) / g.mean(0) ** 2
    influence = (g / m) ** 2 - 2 * q * (g / m)
    return q - 1, influence.std(0) / len(g) ** 0.5


def test_it_is_less_noisy_than_the_densities_of_a_walk() -> None:
    """The reward is the end itself, of variance v. A walk's gradient by the density of step k, which draws a share c_k
    of v, has the noise `1 + 1 / c_k` for a signal of 1; that by matching at level t with a gain G of the denoiser
    `2 + (G sigma)^2 / (v (1 - G alpha)^2)`: where steps are fine `1 + 1 / C_k`, C_k being the share of all that is
    drawn from level k on. It is less at every level, and by far where most is still to come.
    """
    count, grid = 40_000, grids.LogSNR(5, 0.1, 20.0)
    rows = grid.levels(PATH).rows()
    inner = tuple(float(t) for t in rows[:-2])  # the last step has no density
    model = Levelled(list(inner), count)
    made = Walk(model, solvers.DDIM(1.0), grid)
    batch = OwnWalks(made, (1,), count, first_entry, dtype=f64).next(TICK)
    by_step = PolicyGradient(made, [Relative()], clip=None)
    by_end = Matching(made, [Relative()], proposal=AtLevels(inner), draws=len(inner), space="clean")
    found = []
    for method in (by_step, by_end):
        (g,) = torch.autograd.grad(method(batch, TICK)[0].sum(), model.b)
        found.append(noise_to_signal(g[..., 0]))
    drawn, down, start = [], 1.0, 0.0
    for t, (a, b, std) in reversed(list(zip(rows[:-1], made.solver.plan(PATH, rows), strict=True))):
        drawn.append((down * std) ** 2)
        down *= a + b * gain(t)
        start = (down * PATH.sigma(t)) ** 2
    v = sum(drawn) + start
    c = torch.tensor(drawn[:0:-1], dtype=f64) / v
    G, alpha, sigma = (torch.tensor([f(t) for t in inner], dtype=f64) for f in (gain, PATH.alpha, PATH.sigma))
    expected = [1 + 1 / c, 2 + (G * sigma) ** 2 / (v * (1 - G * alpha) ** 2)]
    for (measured, error), exact in zip(found, expected, strict=True):
        assert bool(((measured - exact).abs() < 4 * error).all())
        assert bool((error < 0.15 * exact).all()), "the test sees it"
    ratio = found[1][0] / found[0][0]
    assert bool((ratio < 1).all())
    assert float(ratio[0]) < 0.1


def test_what_does_not_fit_is_told() -> None:
    made = Matching(law(), clip=0.1)
    with pytest.raises(ValueError, match=r"a ratio wants the errors of the weights that drew: Measured"):
        made(walks(made.walk), TICK)
    with pytest.raises(ValueError, match="at least one draw a sample, got 0"):
        Matching(law(), draws=0)
