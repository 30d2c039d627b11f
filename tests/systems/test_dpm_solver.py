"""DPM-Solver: its formulas, its split of evaluations, its tolerance, and what ten evaluations bring."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import kedge
from kedge.paths import GaussianPath
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.solvers import DDIM, Adaptive, DPMSolver, Euler
from systems.schedulers import PEERS, levels_of, walked
from walk.oracles import PATHS, Factorised, geometric, mixture, start

pytestmark = pytest.mark.system

VP = PATHS["VP"]
D = mixture().denoiser(VP)
HIGH, LOW = 10.0, 0.02


def eps(x: Tensor, lam: float) -> Tensor:
    t = VP.time_of(2 * lam)
    return (x - VP.alpha(t) * D(x, t)) / VP.sigma(t)


def step(x: Tensor, lam: float, to: float, order: int) -> Tensor:
    """The paper's formulas, with their letters."""

    def a(at: float) -> float:
        return VP.alpha(VP.time_of(2 * at))

    def s(at: float) -> float:
        return VP.sigma(VP.time_of(2 * at))

    h, e_0 = to - lam, eps(x, lam)
    base = a(to) / a(lam) * x - s(to) * math.expm1(h) * e_0
    if order == 1:
        return base
    r_1 = 1 / 2 if order == 2 else 1 / 3
    s_1 = lam + r_1 * h
    u = a(s_1) / a(lam) * x - s(s_1) * math.expm1(r_1 * h) * e_0
    D_1 = eps(u, s_1) - e_0
    if order == 2:
        return base - s(to) / (2 * r_1) * math.expm1(h) * D_1
    r_2, s_2 = 2 / 3, lam + 2 / 3 * h
    u_2 = a(s_2) / a(lam) * x - s(s_2) * math.expm1(r_2 * h) * e_0
    u_2 = u_2 - s(s_2) * r_2 / r_1 * (math.expm1(r_2 * h) / (r_2 * h) - 1) * D_1
    return base - s(to) / r_2 * (math.expm1(h) / h - 1) * (eps(u_2, s_2) - e_0)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_papers_formulas(order: int) -> None:
    scales = [5.0, 2.0, 0.5, 0.1]
    x = expected = start(VP, VP.time_at(5.0), (4, 2))
    for one, other in pairwise(scales):
        expected = step(expected, -math.log(one), -math.log(other), order)
    got = kedge.sample(D, x, Levels(levels_of(VP, scales)), DPMSolver(order))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)


def test_order_2_is_that_of_diffusers() -> None:
    """Whose inner points are levels of the grid: here those half way in log-SNR."""
    scales = [4.0 * (0.1 / 4.0) ** (i / 8) for i in range(9)]

    def scheduler() -> Any:
        return PEERS.DPMSolverSinglestepScheduler(
            solver_order=2, algorithm_type="dpmsolver", lower_order_final=False, final_sigmas_type="sigma_min"
        )

    x = start(VP, VP.time_at(4.0), (4, 2))
    expected = walked(scheduler, scales, D, x)
    got = kedge.sample(D, x, Levels(levels_of(VP, scales[::2])), DPMSolver(2))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("evaluations", "orders"),
    [(3, (2, 1)), (9, (3, 3, 2, 1)), (10, (3, 3, 3, 1)), (11, (3, 3, 3, 2)), (2, (2,)), (1, (1,))],
)
def test_fast_splits_as_the_authors_do(evaluations: int, orders: tuple[int, ...]) -> None:
    assert DPMSolver.fast(evaluations, clean=False).order == orders
    if evaluations > 1:
        solver = DPMSolver.fast(evaluations)
        counted = Factorised(VP)
        kedge.sample(counted, VP.prior((2, 2)), LogSNR(len(solver.order)), solver)  # pyright: ignore[reportArgumentType]
        assert len(counted.calls) == evaluations == solver.evaluations(len(solver.order))  # pyright: ignore[reportArgumentType]


def test_what_cannot_be() -> None:
    for make in (lambda: DPMSolver(4), lambda: DPMSolver(()), lambda: DPMSolver.fast(1)):
        with pytest.raises(ValueError, match="DPM-Solver"):
            make()
    with pytest.raises(ValueError, match=r"makes 2 steps, and the grid has 3: LogSNR\(2\)"):
        kedge.sample(D, VP.prior((2, 2)), LogSNR(3), DPMSolver((2, 1)))


@cache
def solution() -> tuple[Tensor, Tensor]:
    """Starts, and where the flow brings them, both over alpha."""
    law, path = mixture(), PATHS["VE"]
    x = law.marginal(path, HIGH).sample(64, seeds=0)
    exact = kedge.sample(law.denoiser(path), x, Levels(geometric(path, HIGH, LOW, 120)), DPMSolver(3))
    return x, exact


def off(path: GaussianPath, solver: Any, levels: list[float]) -> float:
    """The root mean squared error of a walk between two interior levels."""
    x, exact = solution()
    end = kedge.sample(mixture().denoiser(path), path.alpha(levels[0]) * x, Levels(levels), solver)
    return float((end / path.alpha(levels[-1]) - exact).square().mean().sqrt())


def test_so_many_evaluations() -> None:
    """Euler's in its own clock, the path's time."""

    def fast(evaluations: int) -> float:
        solver = DPMSolver.fast(evaluations, clean=False)
        return off(VP, solver, geometric(VP, HIGH, LOW, len(solver.order)))  # pyright: ignore[reportArgumentType]

    def euler(evaluations: int) -> float:
        high, low = VP.time_at(HIGH), VP.time_at(LOW)
        return off(VP, Euler(), [high + i / evaluations * (low - high) for i in range(evaluations + 1)])

    assert fast(10) <= 0.2 * off(VP, DDIM(), geometric(VP, HIGH, LOW, 10))
    assert fast(10) <= 0.4 * euler(10)
    assert fast(30) <= 0.1 * euler(30)


@pytest.mark.parametrize("order", [2, 3])
def test_the_tolerance_is_met_and_pays(order: Any) -> None:
    """The samples' error is below it, in the mean square; a tenth of it costs no more than the order says."""
    costs: list[int] = []
    for tolerance in (1e-2, 1e-3):
        x, exact = solution()
        counted = Counted()
        ends = geometric(VP, HIGH, LOW, 1)
        end = kedge.sample(counted, VP.alpha(ends[0]) * x, Levels(ends), Adaptive(order, tolerance, tolerance))
        assert float((end / VP.alpha(ends[-1]) - exact).square().mean().sqrt()) <= tolerance
        costs.append(counted.calls)
    assert costs[0] < costs[1] <= 10 ** (1 / order) * costs[0]


class Counted:
    """The exact denoiser; it counts its calls."""

    def __init__(self) -> None:
        self.path, self.calls = VP, 0

    def __call__(self, x: Tensor, t: Any) -> Tensor:
        self.calls += 1
        return D(x, t)


def test_a_step_is_chosen_by_the_papers_rule() -> None:
    """Of one sample: the trials, one by one."""
    x, tolerance, first = start(VP, VP.time_at(5.0), (1, 2)), 0.02, 0.3
    lam, end, h = -math.log(5.0), -math.log(0.5), first
    at, before, calls = x, x, 0
    while lam < end - 1e-12:
        h = min(h, end - lam)
        low, high = step(at, lam, lam + h, 1), step(at, lam, lam + h, 2)
        allowed = (tolerance * torch.maximum(low.abs(), before.abs())).clamp(min=tolerance)
        E = float(((high - low) / allowed).square().mean().sqrt())
        calls += 2
        if E <= 1:
            at, before, lam = high, low, lam + h
        h = 0.9 * h * E ** (-1 / 2)
    counted = Counted()
    ends = levels_of(VP, [5.0, 0.5])
    got = kedge.sample(counted, x, Levels(ends), Adaptive(2, tolerance, tolerance, first))
    torch.testing.assert_close(got, at, rtol=0, atol=1e-10)
    assert counted.calls == calls


def test_it_gives_up_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^Adaptive: 30 evaluations do not reach the level"):
        kedge.sample(D, VP.prior((2, 2)), LogSNR(2), Adaptive(3, 1e-6, 1e-6, most=30))
