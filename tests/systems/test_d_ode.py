"""D-ODE: one number a step, fitted to a finer run of the same solver, on exact denoisers."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import kedge
from kedge.distill import distilled_steps, store_steps, stored_steps
from kedge.errors import InputError
from kedge.exact import GaussianMixture
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.hooks import Pin
from kedge.walk.solvers import DDIM, DDPM, DPMSolverPP, Heun, Mixed, RungeKutta
from walk.oracles import PATHS, Factorised, f64, geometric, mixture, start

pytestmark = pytest.mark.system

VP = PATHS["VP"]


def ring() -> GaussianMixture:
    angle = torch.arange(8, dtype=f64) * math.pi / 4
    return GaussianMixture([1.0] * 8, torch.stack([angle.cos(), angle.sin()], 1), [0.005] * 8)


LAWS = {"two": mixture(), "ring": ring()}


def adams(path: Any, rows: Sequence[float]) -> tuple[float, ...]:
    """The shares with which DDIM is Adams and Bashforth's second method in the noise scale."""
    r = [path.noise_scale(t) for t in rows]
    return (0.0, *((s - t) / (2 * (t - before)) for before, t, s in zip(r, r[1:], r[2:], strict=False)))


@cache
def truth(law: str, scale: float) -> tuple[Tensor, Tensor]:
    """Starts, and where a walk of many small steps ends."""
    x = LAWS[law].marginal(VP, VP.t_max).sample(200, 6)
    return x, kedge.sample(LAWS[law].denoiser(VP), x, LogSNR(200, 0.1 * scale), RungeKutta("heun"))


@pytest.mark.parametrize("n", [5, 8, 10])
@pytest.mark.parametrize("law", LAWS)
def test_of_ddim_it_takes_most_of_the_error(law: str, n: int) -> None:
    D, grid = LAWS[law].denoiser(VP), LogSNR(n, 0.02)
    x, exact = truth(law, 0.02)
    began = time.process_time()
    mixed = distilled_steps(D, DDIM(), grid, LAWS[law].marginal(VP, VP.t_max).sample(100, 5))
    fitted = time.process_time() - began
    rows = [float(t) for t in grid.levels(VP).t]
    solvers = DDIM(), mixed, Mixed(DDIM(), adams(VP, rows))
    plain, ours, second = (float((kedge.sample(D, x, grid, solver) - exact).norm()) for solver in solvers)
    print(f"{law} {n}: DDIM {plain:.3g}, distilled {ours:.3g}, Adams {second:.3g}, fitted in {fitted:.2f} s")
    assert ours <= 0.7 * plain
    assert ours <= second
    assert fitted < 1.0
    assert mixed.evaluations(n) == n


@pytest.mark.parametrize("predicted", ["eps", "clean"])
@pytest.mark.parametrize("solver", [DDIM(), DPMSolverPP(2), Heun()], ids=["DDIM", "2M", "Heun"])
def test_shares_of_nothing_are_the_solver(solver: Any, predicted: Any) -> None:
    D, x = mixture().denoiser(VP), start(VP, 1.0, (4, 2))
    still = kedge.sample(D, x, LogSNR(6), Mixed(solver, (0.0,) * 6, predicted))
    assert torch.equal(still, kedge.sample(D, x, LogSNR(6), solver))


def test_of_a_gaussian_the_shares_are_known() -> None:
    """There each step of DDIM multiplies: `x_s = (a + b g_t) x_t` with `D = g_t x_t`, and so do many."""
    rows, v, C = [*geometric(VP, 20.0, 0.1, 4), 0.0], 0.3, 6
    D = Factorised(VP, 0.0, v)

    def g(t: float) -> float:
        return VP.sigma(t) / (VP.alpha(t) ** 2 * v + VP.sigma(t) ** 2)

    def ab(t: float, s: float) -> tuple[float, float]:
        return VP.alpha(s) / VP.alpha(t), VP.sigma(s) - VP.sigma(t) * VP.alpha(s) / VP.alpha(t)

    x, before, wanted = 1.0, 0.0, []
    for i, (t, s) in enumerate(itertools.pairwise(rows)):
        high, low = VP.noise_scale(t) ** (1 / 7), VP.noise_scale(s) ** (1 / 7)
        fine = [t, *(VP.time_at((high + (low - high) * k / C) ** 7) for k in range(1, C)), s]
        y = x
        for u, w in itertools.pairwise(fine):
            y = (ab(u, w)[0] + ab(u, w)[1] * g(u)) * y
        a, b = ab(t, s)
        now, taught = g(t) * x, (y - a * x) / b
        wanted.append((taught - now) / (now - before) if i else 0.0)
        x, before = a * x + b * (now + wanted[-1] * (now - before)), now
    found = distilled_steps(D, DDIM(), Levels(rows), start(VP, rows[0], (7, 3)), substeps=C).shares
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=1e-6, atol=1e-9)
    assert max(abs(one) for one in wanted) > 0.1


@pytest.mark.parametrize("predicted", ["eps", "clean"])
def test_it_is_the_papers_step(predicted: Any) -> None:
    """`O = D + share (D - D before)` in the place of D in DDIM's step, with D the noise or the data."""
    D, rows, shares = mixture().denoiser(VP), [*geometric(VP, 10.0, 0.1, 4), 0.0], (9.0, 0.4, -0.3, 0.8, 0.2)
    x = first = start(VP, rows[0], (4, 2))
    before = None
    for (t, s), share in zip(itertools.pairwise(rows), shares, strict=True):
        a_t, s_t = VP.alpha(t), VP.sigma(t)
        now = D(x, t) if predicted == "clean" else (x - a_t * D(x, t)) / s_t
        O_t = now if before is None else now + share * (now - before)
        clean, eps = (O_t, (x - a_t * O_t) / s_t) if predicted == "clean" else ((x - s_t * O_t) / a_t, O_t)
        x, before = VP.alpha(s) * clean + VP.sigma(s) * eps, now
    ours = kedge.sample(D, first, Levels(rows), Mixed(DDIM(), shares, predicted))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-10)


def error(n: int, path: str = "VP") -> Tensor:
    p = PATHS[path]
    rows = geometric(p, 3.0, 0.1, n)
    x = p.alpha(rows[0]) * (mixture().sample(8, 1) + 3.0 * start(PATHS["VE"], 0.0, (8, 2)))
    return kedge.sample(mixture().denoiser(p), x, Levels(rows), Mixed(DDIM(), adams(p, rows))) / p.alpha(rows[-1])


def test_with_adams_shares_its_order_is_two_on_every_path() -> None:
    fine = error(160)
    slope = math.log2(float((error(20) - fine).norm() / (error(40) - fine).norm()))
    assert abs(slope - 2) < 0.15
    for path in PATHS:
        torch.testing.assert_close(error(10, path), error(10), rtol=0, atol=1e-9)


def test_levels_of_entries_pins_and_float32() -> None:
    path, solver = PATHS["Rectified"], Mixed(DDIM(), (0.0, 0.5, 0.3, -0.2), "eps")
    first, second = [*geometric(path, 8.0, 0.1, 3), 0.0], [*geometric(path, 2.0, 0.5, 3), 0.0]
    both = Levels(torch.tensor([first, second], dtype=f64).T)
    x, D = start(path, 0.8, (5, 2)), Factorised(path)
    walked = kedge.sample(D, x, both, solver)
    for i, rows in enumerate((first, second)):
        alone = kedge.sample(D, x[:, i : i + 1], Levels(rows), solver)
        torch.testing.assert_close(walked[:, i : i + 1], alone, rtol=0, atol=1e-12)
    hooks = [Pin(torch.tensor([True, False]), torch.ones(2))]
    single = kedge.sample(D, x.float(), both, solver, hooks)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single[:, 1].double(), walked[:, 1], rtol=0, atol=1e-5)
    assert bool((single[:, 0] == 1).all())


def test_they_are_stored_next_to_a_run(tmp_path: Path) -> None:
    mixed = Mixed(DPMSolverPP(2), (0.0, 0.1, 1 / 3), "clean")
    store_steps(tmp_path, mixed)
    assert stored_steps(tmp_path, DPMSolverPP(2)) == mixed
    with pytest.raises(InputError, match=r"its steps were fitted to DPMSolverPP\(order=2.*, not to DDIM"):
        stored_steps(tmp_path, DDIM())


def test_what_cannot_be_distilled_is_refused() -> None:
    D, x = Factorised(VP), start(VP, 1.0, (2, 2))
    with pytest.raises(ValueError, match=r"Mixed takes a deterministic solver, not DDPM\(\)"):
        distilled_steps(D, DDPM(), LogSNR(3), x)
    with pytest.raises(ValueError, match="Mixed has shares for 2 steps, and the grid has 3"):
        kedge.sample(D, x, LogSNR(3), Mixed(DDIM(), (0.0, 0.5)))


def test_what_is_pinned_counts_for_nothing() -> None:
    """The shares of the one entry are those that it has alone, whatever the other one is held at."""
    D, rows, x = Factorised(VP), [*geometric(VP, 20.0, 0.1, 4), 0.0], start(VP, 0.9, (6, 2))
    alone = distilled_steps(D, DDIM(), Levels(rows), x[:, 1:]).shares
    for value in (0.0, 40.0):
        pin = Pin(torch.tensor([True, False]), torch.full((2,), value))
        both = distilled_steps(D, DDIM(), Levels(rows), x, hooks=[pin]).shares
        torch.testing.assert_close(torch.tensor(both), torch.tensor(alone), rtol=1e-9, atol=1e-12)
