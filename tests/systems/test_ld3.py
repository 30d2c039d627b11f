"""Levels learn from a teacher: the gradient of where a short walk ends, through the walk, into its levels."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch

from kedge import Walk, sample, solvers
from kedge.distill import Imitation, Subject, by_hand, endpoint_error, teacher_ends
from kedge.distill.imitate import Clock
from kedge.exact import GaussianMixture
from kedge.paths import Trig
from kedge.walk.grids import Fitted, Levels, LogSNR
from kedge.walk.hooks import Record
from kedge.walk.state import Solver
from systems.fitted import HIGH, LOW, PATH, ends, f64, sliced, subject

pytestmark = pytest.mark.system

SHORT = Imitation(updates=300, ball=0.0)
STUDENTS: dict[str, Solver] = {"DDIM": solvers.DDIM(), "2M": solvers.DPMSolverPP(2)}


@cache
def learned(solver: str, n: int, how: Imitation = SHORT) -> Fitted:
    return how.grid(subject(256), STUDENTS[solver], n, ends(256))


def error(solver: str, n: int, grid: Fitted | Levels) -> float:
    """From starts that nothing was learned on."""
    return endpoint_error(subject(300, 5), STUDENTS[solver], grid, ends(300, 5))


def least_by_hand(solver: str, n: int, ended: bool) -> float:
    """Of uniform and quadratic in time, uniform in log-SNR, and rho 7 and 3; and, `ended`, of the latter three without
    a step from their lowest level.
    """
    grids = by_hand(subject(300, 5), n)
    chosen = [grid for name, grid in grids.items() if ended or not name.endswith("ended")]
    assert len(chosen) == (8 if ended else 5)
    return min(endpoint_error(subject(300, 5), STUDENTS[solver], grid, ends(300, 5)) for grid in chosen)


@pytest.mark.slow
@pytest.mark.parametrize("solver", STUDENTS)
def test_short_walks_end_nearer_to_the_teachers_than_by_hand(solver: str) -> None:
    own = error(solver, 5, learned(solver, 5))
    assert own < 0.6 * least_by_hand(solver, 5, ended=False)
    assert own < 0.75 * least_by_hand(solver, 5, ended=True)


@pytest.mark.slow
def test_hearing_learned_levels_is_worth_it() -> None:
    """As the paper's ablation has it; by the multistep solver."""
    deaf = learned("2M", 5, replace(SHORT, hears=0.0))
    assert deaf.told == ()
    assert error("2M", 5, learned("2M", 5)) < error("2M", 5, deaf)


@pytest.mark.slow
def test_samples_are_nearer_to_the_data_too() -> None:
    x, grids = ends(300, 5), by_hand(subject(300, 5), 5)
    found = sliced(subject(300, 5).walked(solvers.DDIM(), learned("DDIM", 5)), x)
    others = [sliced(subject(300, 5).walked(solvers.DDIM(), grid), x) for grid in grids.values()]
    assert found < min(others)


@cache
def line() -> Subject:
    """A Gaussian on a line."""
    law = GaussianMixture([1.0], torch.zeros(1, 1, dtype=f64), [0.25])
    return Subject(law.denoiser(PATH), law.sample(32, seeds=0), 0.05, HIGH)


def test_two_steps_are_those_that_trying_all_finds() -> None:
    """One level is free: the learned one within a hundredth of the best, in the logarithm."""
    whole = teacher_ends(line(), 40)
    scales = torch.linspace(-1.5, 0.5, 201, dtype=f64).exp()
    errors = [endpoint_error(line(), solvers.DDIM(), Fitted((HIGH, float(s))), whole) for s in scales]
    best = float(scales[int(torch.tensor(errors).argmin())].log())
    how = Imitation(updates=60, hears=0.0, ball=0.0, batch=16)
    found = how.grid(line(), solvers.DDIM(), 2, whole, LogSNR(2, 0.3, HIGH))
    assert abs(float(torch.tensor(found.scales[1]).log()) - best) < 0.01


@pytest.mark.parametrize("name", ["logits", "offsets", "moved"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """Of levels, of what is heard, and of where starts are."""
    how = replace(SHORT, ball=0.05)
    own, start = subject(8, 3), subject(8, 3).start()
    scales = torch.tensor([20.0, 2.0, 0.6, 0.2], dtype=f64)
    clock = Clock(how, own, solvers.DPMSolverPP(2), ends(8, 3), start, scales, 8)
    with torch.no_grad():
        for p in clock.parameters():
            p.add_(0.03 * torch.arange(p.numel(), dtype=f64).cos().reshape(p.shape))
    index = torch.arange(8)

    def loss() -> torch.Tensor:
        return clock._off(index, start + clock._within(clock.moved) * own.spread, grad=True).mean()

    p = dict(clock.named_parameters())[name]
    gradient = torch.autograd.grad(loss(), p)[0].flatten()[2]
    with torch.no_grad():
        found = []
        for by in (1e-6, -1e-6):
            p.view(-1)[2] += by
            found.append(float(loss()))
            p.view(-1)[2] -= by
    assert float(gradient) == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-5)
    assert abs(float(gradient)) > 1e-5


def test_levels_fall_and_what_is_heard_stays_within_half_a_gap() -> None:
    scales = torch.tensor([20.0, 2.0, 0.6, 0.2], dtype=f64)
    clock = Clock(replace(SHORT, ball=0.1), subject(8, 3), solvers.DDIM(), ends(8, 3), subject(8, 3).start(), scales, 8)
    r, told = clock.scales()
    torch.testing.assert_close(r.detach(), scales, rtol=1e-12, atol=0)
    with torch.no_grad():
        clock.offsets.copy_(torch.tensor([9.0, 9.0, -9.0, 9.0]))
        clock.logits.add_(torch.tensor([3.0, -8.0, 0.5, 0.0]))
        clock.moved.fill_(5.0)
    r, told = (value.detach() for value in clock.scales())
    log_r = torch.cat([r, torch.tensor([LOW], dtype=f64)]).log()
    gap = float(-log_r.diff().max())
    assert all(a > b for a, b in pairwise(r.tolist()))
    torch.testing.assert_close((told / r).log(), gap / 2 * torch.tensor([0.0, 1, -1, 1], dtype=f64))
    assert float(r[0]) == pytest.approx(HIGH)
    moved = clock._within(clock.moved).detach()
    torch.testing.assert_close(moved.square().mean(1).sqrt(), torch.full((8,), 0.1, dtype=f64))


@pytest.mark.parametrize("path", [PATH, Trig(0.5)], ids=["VE", "Trig"])
def test_the_network_hears_what_it_is_told(path: Trig) -> None:
    """The noise that it finds in x_t at the told level, taken away at the solver's: a walk by hand."""
    law = GaussianMixture([0.4, 0.6], torch.tensor([[-0.5], [0.5]], dtype=f64), [0.04, 0.01])
    grid = Fitted((9.0, 1.0, 0.3), (9.0, 1.2, 0.25))
    record, x = Record(), path.prior((6, 1), 0, dtype=f64)
    found = sample(law.denoiser(path), x, grid, solvers.DDIM(), [record])
    times = [float(t) for t in grid.levels(path).rows()]
    for i, (t, s) in enumerate(pairwise(times)):
        u = path.time_at(grid.told[i])
        z = (x - path.alpha(u) * law.posterior_mean(path, x, u)) / path.sigma(u)
        x_hat = (x - path.sigma(t) * z) / path.alpha(t)
        x = path.alpha(s) * x_hat + path.sigma(s) * z
    torch.testing.assert_close(found, x, rtol=1e-10, atol=1e-11)
    plain = sample(law.denoiser(path), record.x[0], Fitted(grid.scales), solvers.DDIM())  # type: ignore[arg-type]
    same = sample(law.denoiser(path), record.x[0], Fitted(grid.scales, grid.scales), solvers.DDIM())  # type: ignore[arg-type]
    torch.testing.assert_close(same, plain, rtol=1e-10, atol=1e-11)
    assert float((found - plain).abs().max()) > 1e-3


def test_a_replay_hears_what_the_walk_heard() -> None:
    law = GaussianMixture([0.4, 0.6], torch.tensor([[-0.5], [0.5]], dtype=f64), [0.04, 0.01])
    record, x = Record(), PATH.prior((6, 1), 0, dtype=f64)
    walk = Walk(law.denoiser(PATH), solvers.DDPM(), Fitted((9.0, 1.0, 0.3), (9.0, 1.2, 0.25)), [record])
    walk.run(x, seeds=1)
    for again in (walk.replay(record), walk.replay(record.take(torch.arange(6)))):
        torch.testing.assert_close(record.log_prob(again), record.log_prob(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("levels", "line"),
    [
        (Levels([1.0, 0.5, 0.0], told=[1.0]), "told: 2 levels are asked at, but 1 are told"),
        (Levels([1.0, 0.5, 0.0], told=[1.0, 90.0]), "told level 1 of the grid: time 90 lies outside"),
        (Levels([1.0, 0.5, 0.0], told=[1.0, 0.0]), "told level 1 of the grid is clean"),
    ],
)
def test_what_cannot_be_heard_is_refused(levels: Levels, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        levels.levels(PATH)
