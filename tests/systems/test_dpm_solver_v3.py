"""DPM-Solver-v3: exponents and drifts of the model itself, taken out of what a step has to extrapolate."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import cumulative_trapezoid
from torch import Tensor

import kedge
from kedge.distill import statistics_of
from kedge.noise import Noise
from kedge.walk import Solver
from kedge.walk.grids import Levels
from kedge.walk.solvers import Decision, DPMSolverPP, DPMSolverV3, Statistics, Unified
from walk.flow import begun, holds, scales, slope, walked
from walk.oracles import PATHS, Factorised, f64, geometric, mixture, start

pytestmark = pytest.mark.system


def coefficients(lam: Any) -> tuple[Any, Any, Any]:
    """Some l, s and b, polynomials of lambda, which the table's cubics meet exactly."""
    return 0.5 + 0.1 * lam, -0.3 + 0.05 * lam**2, 0.2 - 0.1 * lam


def table(rows: int = 24) -> Statistics:
    at = torch.linspace(-4, 4, rows, dtype=f64)
    return Statistics(at, *(value[:, None].expand(rows, 2) for value in coefficients(at)))


def rewritten(order: int, corrector: bool, pseudo: bool, lam: list[float], x: Any, D: Any) -> Any:
    """The paper's first-order step and its Taylor terms, with L, S, I, B, C of a very fine grid from lambda = -4 on
    (x / alpha, alpha = 1). Derivatives by the inverse of a Vandermonde matrix, or by divided differences.
    """
    u = np.linspace(-4, 4, 400_001)
    l, s, b = coefficients(u)  # noqa: E741

    def upto(values: Any) -> Any:
        return cumulative_trapezoid(values, u, initial=0)

    L, S = upto(l), upto(s)
    inner, B = np.exp(L + S), upto(np.exp(-S) * b)
    I, C = upto(inner), upto(inner * B)  # noqa: E741

    def at(values: Any, j: int) -> float:
        return float(np.interp(lam[j], u, values))

    def stepped(x: Any, a: int, e: int, nodes: list[int], f: dict[int, Any]) -> Any:
        g = {
            j: math.exp(at(S, a) - at(S, j)) * f[j] - math.exp(at(S, a)) * (at(B, j) - at(B, a)) for j in nodes
        }  # fmt: skip
        whole = at(I, e) - at(I, a)
        y = math.exp(at(L, a) - at(L, e)) * x - math.exp(-at(L, e) - at(S, a)) * whole * g[a]
        y = y - math.exp(-at(L, e)) * (at(C, e) - at(C, a) - at(B, a) * whole)
        n = len(nodes) - 1
        r = np.array([lam[j] - lam[a] for j in nodes])
        if pseudo:
            D_n = [[g[j] for j in nodes]]
            for k in range(1, n + 1):
                D_n.append([(D_n[-1][j] - D_n[-1][j + 1]) / (r[j] - r[j + k]) for j in range(n - k + 1)])
            taylor = [D_n[k][0] for k in range(1, n + 1)]
        else:
            inverse = np.linalg.inv(np.stack([r[1:] ** k for k in range(1, n + 1)], 1)) if n else np.zeros((0, 0))
            taylor = [sum(inverse[k, m] * (g[nodes[m + 1]] - g[a]) for m in range(n)) for k in range(n)]
        for k, term in enumerate(taylor, 1):
            weight = upto(inner * (u - lam[a]) ** k)
            y = y - math.exp(-at(L, e) - at(S, a)) * (at(weight, e) - at(weight, a)) * term
        return y

    f = dict[int, Any]()
    predicted_by, before = 0, x
    for i in range(len(lam) - 1):
        f[i] = (1 - coefficients(lam[i])[0]) * x - D(x, math.exp(-lam[i]))
        many = predicted_by + pseudo
        if corrector and i and many > 1:
            x = stepped(before, i - 1, i, [i - 1, i, *range(i - 2, -1, -1)][:many], f)
        before, predicted_by = x, min(order, i + 1)
        x = stepped(x, i, i + 1, list(range(i, i - predicted_by, -1)), f)
    return x


@pytest.mark.parametrize(("order", "corrector", "pseudo"), [(1, False, False), (3, True, False), (3, True, True)])
def test_the_papers_formulas(order: Any, corrector: bool, pseudo: bool) -> None:
    at = scales(5)
    expected = rewritten(
        order, corrector, pseudo, [-math.log(r) for r in at], begun(mixture()), mixture().denoiser(PATHS["VE"])
    )
    got = walked(DPMSolverV3(table(), order, corrector, pseudo), at)
    torch.testing.assert_close(
        got, expected, rtol=0, atol=1e-7
    )  # the grid of the trapezoids: 2e-5 squared, times a few


@pytest.mark.parametrize(
    ("order", "corrector"),
    [(1, False), (3, False), *(pytest.param(n, True, marks=pytest.mark.slow) for n in (2, 3))],
)
def test_order(order: Any, corrector: bool) -> None:
    at, part = torch.linspace(-2, 3, 60, dtype=f64), torch.linspace(0, 1, 60, dtype=f64)[:, None]
    rows = part**2 * torch.tensor([1.0, 0.7], dtype=f64), 0.3 + 0 * part.expand(60, 2), 0.2 + 0 * part.expand(60, 2)
    assert abs(slope(DPMSolverV3(Statistics(at, *rows), order, corrector), 20, own=True) - order) < 0.15


@pytest.mark.parametrize("name", ["VP", "Cosine", "Rectified", "Trig"])
def test_it_does_not_see_the_path(name: str) -> None:
    solver = DPMSolverV3(table())
    torch.testing.assert_close(walked(solver, scales(7), name), walked(solver, scales(7)), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("l", "s", "other"),
    [(1.0, 0.0, Unified((Decision(3),))), (0.0, -1.0, Unified((Decision(3, predict="eps"),)))],
    ids=["clean", "eps"],
)
def test_other_solvers_are_constants(l: float, s: float, other: Solver) -> None:  # noqa: E741
    one = torch.ones(8, 2, dtype=f64)
    constant = Statistics(torch.linspace(-4, 4, 8, dtype=f64), l * one, s * one, 0 * one)
    solver = DPMSolverV3(constant, 3, corrector=False)
    torch.testing.assert_close(walked(solver, scales(7)), walked(other, scales(7)), rtol=0, atol=1e-12)


def test_what_a_solver_owes_the_walk() -> None:
    holds(DPMSolverV3(table()), entries=False)
    times = torch.tensor([[1.0, 1.0], [0.5, 0.4]], dtype=f64)
    with pytest.raises(ValueError, match="statistics belong to entries"):
        kedge.sample(Factorised(PATHS["VP"]), torch.zeros(1, 2), Levels(times), DPMSolverV3(table()))


MEAN, VARIANCE = torch.tensor([0.3, -0.6], dtype=f64), torch.tensor([0.5, 0.02], dtype=f64)


def gaussian(name: str) -> Factorised:
    return Factorised(PATHS[name], MEAN, VARIANCE)


@cache
def of_the_gaussian() -> Statistics:
    """Told on another path than it is used on: statistics do not see the path either."""
    data = MEAN + VARIANCE.sqrt() * torch.randn(16, 2, dtype=f64, generator=torch.Generator().manual_seed(0))
    return statistics_of(gaussian("Cosine"), data, rows=90, scales=(0.05, 10.0))


def test_statistics_of_a_gaussian() -> None:
    """l = r^2 / (v + r^2), s = 0 as f does not vary, b = 2 m v r^2 / (v + r^2)^2."""
    found = of_the_gaussian()
    r2 = torch.exp(-2 * found.at)[:, None]
    torch.testing.assert_close(found.l, r2 / (VARIANCE + r2), rtol=0, atol=1e-10)
    assert (found.s == 0).all()
    b = 2 * MEAN * VARIANCE * r2 / (VARIANCE + r2) ** 2
    # the fourth power of a row's 0.06, times the fifth derivative of l, at most 16, by 5
    torch.testing.assert_close(found.b, b, rtol=0, atol=5e-5)


def exactly(x: Tensor, high: float, low: float) -> Tensor:
    return MEAN + ((VARIANCE + low**2) / (VARIANCE + high**2)).sqrt() * (x - MEAN)


def test_two_evaluations_of_a_gaussian_are_exact() -> None:
    x, levels = start(PATHS["VE"], 10.0, (16, 2)), geometric(PATHS["VE"], 10.0, 0.05, 2)

    def error(solver: Solver) -> float:
        return float((kedge.sample(gaussian("VE"), x, Levels(levels), solver) - exactly(x, 10.0, 0.05)).abs().max())

    assert error(DPMSolverV3(of_the_gaussian(), 1)) < 1e-5
    assert error(DPMSolverPP(2)) > 0.1


def test_statistics_of_a_network_with_attention(tmp_path: Path) -> None:
    net = kedge.nets.DiT1D(2, width=16, heads=2, depth=1)
    denoiser = kedge.Denoiser(net, PATHS["Trig"], predict="trig")
    found = statistics_of(denoiser, torch.randn(8, 4, 2), rows=6, scales=(0.1, 5.0))
    assert found.l.shape == (6, 4, 2)
    found.save(tmp_path / "statistics.safetensors", rows_of="a test")
    again = Statistics.load(tmp_path / "statistics.safetensors")
    assert all(torch.equal(getattr(found, name), getattr(again, name)) for name in ("at", "l", "s", "b"))
    with pytest.raises(FileNotFoundError, match="no statistics there"):
        Statistics.load(tmp_path / "other.safetensors")


@cache
def of_the_mixture() -> Statistics:
    law = mixture()
    return statistics_of(law.denoiser(PATHS["VE"]), law.sample(512, 3), rows=30, scales=(0.05, 10.0))


@cache
def walk_of_the_mixture(solver: Solver, n: int) -> Tensor:
    """From noise scale 10 to .05."""
    x = 10.0 * Noise.of(1, 128).normal((128, 2), 0)
    return kedge.sample(mixture().denoiser(PATHS["VE"]), x, Levels(geometric(PATHS["VE"], 10.0, 0.05, n)), solver)


@pytest.mark.parametrize(("n", "share"), [(5, 0.8), (8, 0.8), (10, 1.05)])
def test_fewer_evaluations_of_a_mixture(n: int, share: float) -> None:
    """Root mean square distances from where the flow ends."""
    exact = walk_of_the_mixture(DPMSolverPP(3, multistep=False), 50)
    unipc = Decision(1, corrector=2, slope="half"), Decision(2, corrector=3), Decision(3, corrector=4)
    others = DPMSolverPP(3), Unified(unipc)
    best = min(float((walk_of_the_mixture(other, n) - exact).norm()) for other in others)
    mine = float((walk_of_the_mixture(DPMSolverV3(of_the_mixture()), n) - exact).norm())
    assert mine < share * best
    assert n > 8 or mine < 0.8 * best


def test_refusals() -> None:
    at, rows = torch.linspace(0, 1, 5, dtype=f64), torch.zeros(5, 2, dtype=f64)
    with pytest.raises(ValueError, match="rising"):
        Statistics(at.flip(0), rows, rows, rows)
    with pytest.raises(ValueError, match="does not fit"):
        Statistics(at, rows, rows[:4], rows)
    with pytest.raises(ValueError, match="needs statistics"):
        Unified((Decision(predict="fitted"),))
