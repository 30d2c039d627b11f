"""The solvers are what their papers say, and each other where the papers say so."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

import kedge
from kedge.walk import Solver, Walk
from kedge.walk.grids import Levels, LogSNR, Rho
from kedge.walk.hooks import Record
from kedge.walk.solvers import DDIM, DDPM, DPMSolverPP, Euler, Heun
from walk.oracles import (
    DETERMINISTIC,
    PATHS,
    RANDOM,
    SOLVERS,
    Factorised,
    Spy,
    f64,
    geometric,
    mixture,
    normals,
    rewritten,
    start,
)  # fmt: skip

SHAPE = 5, 2


def both(path: str, first: Solver, second: Solver, n: int = 9) -> float:
    """The largest difference between two solvers' samples of a mixture, with the same noise."""
    x = PATHS[path].prior(SHAPE, kedge.Noise.of(0, 5), dtype=f64)
    D = mixture().denoiser(PATHS[path])
    samples = [kedge.sample(D, x, Rho(n), solver, seeds=3) for solver in (first, second)]
    return float((samples[0] - samples[1]).abs().max())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (DDIM(1.0), DDPM()),
        (DPMSolverPP(1), DDIM()),
        (DPMSolverPP(1, multistep=False), DDIM()),
        (DPMSolverPP(1, sde=True), DDPM()),
    ],
    ids=["DDIM(1)=DDPM", "DPM++1=DDIM", "DPM++1S=DDIM", "DPM++1-SDE=DDPM"],
)
def test_solvers_that_are_one(path: str, first: Solver, second: Solver) -> None:
    # Rounding of coefficients near 1, times a state of up to 80 sigma_data on VE: 300 ulp of it.
    assert both(path, first, second) < 5e-12


@pytest.mark.parametrize("path", ["VE", "Rectified"])
def test_euler_is_ddim_where_the_flow_is_straight(path: str) -> None:
    assert both(path, Euler(), DDIM()) < 5e-12


@pytest.mark.parametrize("path", ["VP", "Cosine", "Trig"])
def test_euler_is_not_ddim_elsewhere(path: str) -> None:
    assert both(path, Euler(), DDIM()) > 1e-4


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["DDIM", "1", "2M", "3M", *RANDOM])
def test_the_papers_formula(path: str, name: str) -> None:
    p, n = PATHS[path], 12
    levels = [float(t) for t in Rho(n, 3.0, scale_min=0.03, scale_max=5.0).levels(p).t]  # steps of unequal length
    D = mixture().denoiser(p)
    x = start(p, levels[0], SHAPE)
    expected = rewritten(name, p, D, x, levels, normals(7, SHAPE, n))
    # The eight-point rule leaves 1e-13 of the parabola's integral at this step length.
    torch.testing.assert_close(kedge.sample(D, x, Levels(levels), SOLVERS[name], seeds=7), expected, rtol=0, atol=1e-11)


def test_heun_is_edms_algorithm_1() -> None:
    D = mixture().denoiser(PATHS["VE"])
    grid = Rho(8, scale_max=20.0)
    t = grid.levels(PATHS["VE"]).t
    x = x_0 = start(PATHS["VE"], t[0], SHAPE)
    for t_i, t_next in itertools.pairwise(t):
        d_i = (x - D(x, t_i)) / t_i
        x_next = x + (t_next - t_i) * d_i
        if t_next != 0:
            d_next = (x_next - D(x_next, t_next)) / t_next
            x_next = x + (t_next - t_i) * (d_i / 2 + d_next / 2)
        x = x_next
    torch.testing.assert_close(kedge.sample(D, x_0, grid, Heun()), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["VP", "Rectified", "Trig"])
def test_heun_is_the_trapezium_of_the_velocity(name: str) -> None:
    path = PATHS[name]
    D = mixture().denoiser(path)
    t, s = path.time_at(2.0), path.time_at(1.0)
    x = start(path, t, SHAPE)

    def v(x: Any, t: float) -> Any:
        x_hat = D(x, t)
        return path.d_alpha(t) * x_hat + path.d_sigma(t) * (x - path.alpha(t) * x_hat) / path.sigma(t)

    there = x + (s - t) * v(x, t)
    expected = x + (s - t) / 2 * (v(x, t) + v(there, s))
    torch.testing.assert_close(kedge.sample(D, x, Levels([t, s]), Heun()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["2S", "3S"])
def test_single_step_has_its_taylor_weights(name: str) -> None:
    """Where D is a polynomial of lambda below the order, one exponential step is exact but for 2S's midpoint."""
    path = PATHS["VP"]
    t, s = path.time_at(2.0), path.time_at(1.5)
    lam, end = -math.log(2.0), -math.log(1.5)

    def D(x: Any, u: Any) -> Any:
        return torch.ones_like(x) * (1 + 3 * (0.5 * path.log_snr(u) - lam))

    x = start(path, t, (1, 1))
    got = kedge.sample(Spy(path, D), x, Levels([t, s]), SOLVERS[name])
    h = end - lam
    # alpha_s int_0^h e^(r - h) (1 + 3 r) dr; the midpoint form has D(h / 2) for the slope's integral
    exact = (1 - math.exp(-h)) + 3 * (h - 1 + math.exp(-h))
    exact = exact if name == "3S" else (1 - math.exp(-h)) * (1 + 1.5 * h)
    torch.testing.assert_close(
        got, path.sigma(s) / path.sigma(t) * x + path.alpha(s) * exact, rtol=0, atol=1e-13
    )  # fmt: skip


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name not in ("Euler", "Heun")])
@pytest.mark.parametrize("name", [name for name in PATHS if name != "VE"])
def test_log_snr_solvers_do_not_see_the_path(name: str, solver: str) -> None:
    """x_t / alpha and the noise scale are the same on every path, and so is the walk in them."""
    ends = []
    for path in (PATHS["VE"], PATHS[name]):
        levels = geometric(path, 4.0, 0.05, 9)
        x = path.alpha(levels[0]) * start(PATHS["VE"], 4.0, SHAPE)
        end = kedge.sample(mixture().denoiser(path), x, Levels(levels), SOLVERS[solver], seeds=1)
        ends.append(end / path.alpha(levels[-1]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("name", SOLVERS)
def test_evaluations_are_counted(name: str, n: int) -> None:
    path, solver = PATHS["Cosine"], SOLVERS[name]
    D, record = Factorised(path), Record()
    kedge.sample(D, path.prior(SHAPE, dtype=f64), LogSNR(n), solver, hooks=[record], seeds=0)
    assert len(D.calls) == solver.evaluations(n)
    assert len(record.x) == n + 1
    if name in RANDOM or name in ("Euler", "DDIM", "1", "2M", "3M"):
        assert len(D.calls) == n


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", SOLVERS)
def test_last_step_returns_the_estimate(path: str, name: str) -> None:
    p, record = PATHS[path], Record()
    D = Factorised(p)
    x = kedge.sample(D, p.prior(SHAPE, dtype=f64), LogSNR(5), SOLVERS[name], hooks=[record], seeds=0)
    x_t, t = D.calls[-1]
    assert t == LogSNR(5).levels(p).t[-2]
    assert torch.equal(x_t, record.x[-2])
    assert torch.equal(x, D.one(x_t, t))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_solvers_ignore_the_seeds(name: str) -> None:
    path = PATHS["VP"]
    x, D = start(path, 1.0, SHAPE), mixture().denoiser(path)
    walks = [kedge.sample(D, x, LogSNR(5), DETERMINISTIC[name], seeds=seed) for seed in (0, 1)]
    assert torch.equal(*walks)
    assert DETERMINISTIC[name].density == "none"


@pytest.mark.parametrize("name", RANDOM)
def test_random_solvers_hear_the_seeds(name: str) -> None:
    path = PATHS["VP"]
    x, D = start(path, 1.0, SHAPE), mixture().denoiser(path)
    walks = [kedge.sample(D, x, LogSNR(5), RANDOM[name], seeds=seed) for seed in (0, 1, 1)]
    assert not bool((walks[0] == walks[1]).any())
    assert torch.equal(walks[1], walks[2])
    assert RANDOM[name].density == ("walk" if name in ("SDE-2", "SDE-3") else "step")


def test_a_walk_can_be_run_again() -> None:
    path = PATHS["Trig"]
    walk = Walk(mixture().denoiser(path), DPMSolverPP(3), LogSNR(7))
    x = start(path, path.t_max, SHAPE)
    assert torch.equal(walk.run(x).x, walk.run(x).x)


def test_by_default_2m() -> None:
    path = PATHS["VP"]
    x, D = start(path, 1.0, SHAPE), mixture().denoiser(path)
    assert torch.equal(kedge.sample(D, x, LogSNR(6)), kedge.sample(D, x, LogSNR(6), DPMSolverPP(2)))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: DDIM(1.5), r"^eta must lie in \[0, 1\] \(0 deterministic, 1 ancestral\), got 1.5$"),
        (lambda: DDIM(-0.1), r"^eta must lie in"),
        (lambda: DPMSolverPP(2, multistep=False, sde=True), r"^the SDE is solved by multistep only"),
        (lambda: DPMSolverPP(3, start="own", sde=True), r"^the SDE is solved by multistep only"),
    ],
)
def test_impossible_solvers_are_refused(make: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make()
