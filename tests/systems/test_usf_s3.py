"""The unified sampling framework and its search: one update that is many solvers, step by step, and the best of them
for a denoiser, found by evolution with a predictor.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from scipy.stats import kendalltau
from torch import Tensor

import kedge
from kedge.distill import SolverSchedule, random_schedules, schedule_error, search_solver
from kedge.exact import GaussianMixture
from kedge.noise import Noise
from kedge.walk import Solver
from kedge.walk.grids import Levels, LogSNR, Rho
from kedge.walk.hooks import Record
from kedge.walk.solvers import DDIM, Decision, DPMSolverPP, Unified
from walk.flow import holds, scales, slope, walked
from walk.oracles import PATHS, Spy, f64, geometric, mixture, start

pytestmark = pytest.mark.system

UNIPC = Decision(2, corrector=3, slope="half")
FIRST = Decision(1, corrector=2, slope="half")


@pytest.mark.parametrize(
    ("decisions", "other"),
    [
        ((Decision(1),), DDIM()),
        ((Decision(1, predict="eps"),), DDIM()),
        ((Decision(2, slope="half"),), DPMSolverPP(2)),
        ((Decision(1), Decision(2, slope="half"), Decision(3)), DPMSolverPP(3)),
        ((Decision(3, slope="half"),), DPMSolverPP(3)),
    ],
    ids=["DDIM", "DDIM of eps", "2M", "3M", "3M again"],
)
def test_solvers_that_are_decisions(decisions: Any, other: Solver) -> None:
    torch.testing.assert_close(walked(Unified(decisions), scales(8)), walked(other, scales(8)), rtol=0, atol=1e-12)


def test_terms_are_cut() -> None:
    """Of estimates that are a parabola in lambda, about the beginning of the step: x_hat = 1 + u + u^2, u^2 cut."""
    path, at = PATHS["VE"], scales(3)
    lam = [-math.log(scale) for scale in at]

    def parabola(x: Tensor, t: Any) -> Tensor:
        u = -math.log(t) - lam[2]
        return torch.ones_like(x) * (1 + u + u * u)

    record = Record()
    x, levels = torch.ones(1, 1, dtype=f64), Levels([path.time_at(scale) for scale in at])
    end = kedge.sample(Spy(path, parabola), x, levels, Unified((Decision(3, 2),)), hooks=[record])
    h = lam[3] - lam[2]
    straight = (1 - math.exp(-h)) + h * (1 - (1 - math.exp(-h)) / h)
    before: Any = record.x[2]
    expected = math.exp(-h) * before + straight
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-12)


def test_single_steps_are_pairs_that_begin_at_the_same_point() -> None:
    outer = scales(5)
    inner = [v for a, b in itertools.pairwise(outer) for v in (a, math.sqrt(a * b))] + outer[-1:]
    pairs = Unified((Decision(1), Decision(2, slope="half", back=1)) * 5)
    other = walked(DPMSolverPP(2, multistep=False), outer)
    torch.testing.assert_close(walked(pairs, inner), other, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
@pytest.mark.parametrize("kind", ["bh1", "bh2"])
@pytest.mark.parametrize("predict", [True, False])
def test_unipc_of_diffusers(kind: Any, predict: bool) -> None:
    path, n = PATHS["VP"], 8
    levels = geometric(path, 8.0, 0.1, n)
    D, x = mixture().denoiser(path), start(path, levels[0], (5, 2))
    scheduler: Any = UniPCMultistepScheduler(
        solver_order=2, solver_type=kind, predict_x0=predict, lower_order_final=False, final_sigmas_type="sigma_min"
    )
    scheduler.set_timesteps(n)
    scheduler.sigmas = torch.tensor([path.noise_scale(t) for t in levels], dtype=f64)
    y = x
    for t, name in zip(levels, scheduler.timesteps, strict=False):
        y = scheduler.step(path.convert(D(y, t), y, t, "clean", "eps"), name, y).prev_sample
    slope: Any = "half" if kind == "bh2" else "length"
    how: Any = {"predict": "clean" if predict else "eps", "slope": slope}
    decisions = Decision(1, corrector=2, **how), Decision(2, corrector=3, **how)
    torch.testing.assert_close(kedge.sample(D, x, Levels(levels), Unified(decisions)), y, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("how", "order", "own"),
    [
        (Decision(1, predict="eps"), 1, False),
        (Decision(3, 2), 2, True),
        (Decision(3, predict="eps"), 3, True),
        (Decision(2, corrector=2, slope="length", relax=0.3), 2, False),
        (Decision(2, corrector=3), 3, False),
    ],
    ids=["eps", "Taylor", "eps 3", "relaxed", "corrected"],
)
def test_order(how: Decision, order: int, own: bool) -> None:
    assert abs(slope(Unified((how,)), 40, own) - order) < 0.15


@pytest.mark.parametrize("name", ["VP", "Cosine", "Rectified", "Trig"])
def test_it_does_not_see_the_path(name: str) -> None:
    mixed = Unified((Decision(1), UNIPC, Decision(3, 2, "eps", corrector=1, relax=0.2), Decision(4, powers=True)))
    torch.testing.assert_close(walked(mixed, scales(7), name), walked(mixed, scales(7)), rtol=0, atol=1e-11)


@pytest.mark.parametrize("how", [UNIPC, Decision(3, predict="eps", corrector=1)], ids=["clean", "eps"])
def test_what_a_solver_owes_the_walk(how: Decision) -> None:
    holds(Unified((how,)))


def test_an_analytic_first_step_asks_nothing() -> None:
    path = PATHS["VE"]
    x = 20.0 * torch.ones(1, 2, dtype=f64)
    D = Spy(path, lambda x, t: torch.zeros_like(x) + (0.7 if t > 10 else 0.1))
    ended = kedge.sample(D, x, LogSNR(5, 0.1, 20.0), Unified(first=0.7))
    assert len(D.calls) == Unified(first=0.7).evaluations(5) == 4
    asked = Spy(path, D.f)
    torch.testing.assert_close(ended, kedge.sample(asked, x, LogSNR(5, 0.1, 20.0), Unified()), rtol=0, atol=1e-12)


# The search

LAW = GaussianMixture(
    [1.0] * 5, torch.tensor([[math.cos(1.257 * k), math.sin(1.257 * k)] for k in range(5)], dtype=f64), [0.02] * 5
)


def baselines(n: int) -> list[SolverSchedule]:
    """Known solvers on known grids, from noise scale 10 to .05 and on to clean."""
    found = list[SolverSchedule]()
    for grid in (LogSNR(n, 0.05, 10.0), Rho(n, 7.0, 0.05, 10.0), Rho(n, 3.0, 0.05, 10.0)):
        at = tuple(PATHS["VE"].noise_scale(float(t)) for t in grid.levels(PATHS["VE"]).t[:-1])
        for how in (Decision(1), Decision(2, slope="half"), Decision(3), UNIPC, Decision(3, corrector=4)):
            first = FIRST if how.corrector else Decision(1)
            found.append(SolverSchedule(at, (first, *[how] * (n - 1))))
    return found


@cache
def problem(seed: int, samples: int = 256) -> Any:
    D = LAW.denoiser(PATHS["VE"])
    x = 10.0 * Noise.of(seed, samples).normal((samples, 2), 0)
    exact = kedge.sample(D, x, LogSNR(300, 0.002, 10.0), DPMSolverPP(3, multistep=False))
    return schedule_error(D, x, exact)


def agreement(said: Any, true: list[float]) -> float:
    """Kendall's tau."""
    tau: Any = kendalltau(said, true)
    return float(tau.statistic)


def test_a_schedule_is_a_grid_and_is_kept(tmp_path: Path) -> None:
    one = random_schedules(baselines(5), 1, seed=3)[0]
    one.save(tmp_path / "schedule.json")
    assert SolverSchedule.load(tmp_path / "schedule.json") == one
    assert len(one.levels(PATHS["VP"]).t) == 6
    with pytest.raises(ValueError, match="noise scales fall"):
        SolverSchedule((1.0, 2.0), (Decision(), Decision()))


def made_up(one: SolverSchedule) -> float:
    """A score that asks no denoiser: the distance of the levels from a target, and the number of wrong decisions."""
    wrong = sum(how.points != 3 for how in one.decisions)
    return 1e-3 + float(np.abs(np.log(one.scales) - np.log([10.0, 3.0, 0.7, 0.2, 0.05])).sum()) + 0.1 * wrong


def test_the_search_improves_on_what_it_begins_with() -> None:
    start = baselines(5)
    found = search_solver(made_up, start, 90, seed=1)
    assert len(found.tried) == 90
    assert made_up(found.best) == min(value for _, value in found.tried)
    assert made_up(found.best) < min(map(made_up, [*start, *random_schedules(start, 90, seed=2)]))
    fresh = random_schedules(start, 60, seed=5)
    assert found.predictor is not None
    assert agreement(found.predictor(fresh), [made_up(one) for one in fresh]) > 0.3


def test_a_search_is_the_same_again() -> None:
    one, again = (search_solver(made_up, baselines(5), 46, seed=1) for _ in range(2))
    assert one.predictor is not None
    assert one.tried == again.tried


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 8])
def test_a_found_schedule_on_other_noise(n: int) -> None:
    start = baselines(n)
    found = search_solver(problem(0), start, 300, seed=0)
    best, known = problem(1)(found.best), min(problem(1)(one) for one in start)
    assert best < 0.7 * known


@pytest.mark.slow
def test_the_predictor_beats_random_search() -> None:
    for seed in range(5):
        found = search_solver(problem(0), baselines(5), 200, seed=seed)
        drawn = [problem(0)(one) for one in random_schedules(baselines(5), 200, seed=seed)]
        assert problem(0)(found.best) < min(drawn)
