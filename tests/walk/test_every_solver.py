"""Every solver that is exported: its order, its paths, its noise, its cost, and a compiler's one graph of its walk.

What each claims stands in `benchmarks/measure/every_solver.py`, where a new solver needs a line.
"""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

import kedge
from kedge.paths import GaussianPath, Quantity
from kedge.walk import Solver
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.solvers import UniPC
from walk.oracles import PATHS, Factorised, f64, geometric, mixture, start

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
claims: Any = importlib.import_module("measure.every_solver")
CASES, APART, ALL, made = claims.CASES, claims.APART, claims.ALL, claims.made

HIGH, LOW = 3.0, 0.1
SHAPE = 5, 2


def those(**asked: Any) -> Any:
    return pytest.mark.parametrize(
        "line", [line for line, case in ALL.items() if all(getattr(case, k) == v for k, v in asked.items())]
    )


def test_every_exported_solver_has_its_line() -> None:
    assert set(CASES) | set(APART) | {"NAMED", "SolverName"} == set(kedge.walk.solvers.__all__)
    for name, lines in CASES.items():
        assert lines
        for line in lines:
            assert isinstance(made(line), getattr(kedge.walk.solvers, name))
            assert isinstance(made(line), Solver)


def flow(path: GaussianPath, solver: Solver, levels: list[float]) -> Tensor:
    """From noise scale HIGH to LOW, divided by alpha: then all paths have the same solution."""
    law = mixture()
    z = torch.randn(16, 2, dtype=f64, generator=torch.Generator().manual_seed(0))
    x = path.alpha(levels[0]) * (law.sample(16, 1) + HIGH * z)
    return kedge.sample(law.denoiser(path), x, Levels(levels), solver) / path.alpha(levels[-1])


@cache
def reference() -> Tensor:
    """Of order 4, and fine: its own error, 6e-9, is a hundredth of the least that is measured."""
    path = PATHS["VE"]
    return flow(path, UniPC(3, start="own"), geometric(path, HIGH, LOW, 320))


def levels_for(case: Any, path: GaussianPath, n: int) -> list[float]:
    high, low = path.time_at(HIGH), path.time_at(LOW)
    return [high + i / n * (low - high) for i in range(n + 1)] if case.even else geometric(path, HIGH, LOW, n)


@pytest.mark.parametrize("line", [line for line, case in ALL.items() if case.order in (1, 2, 3)])
def test_its_order_on_a_mixture(line: str) -> None:
    case, path, n = ALL[line], PATHS["VP"], 40
    errors = [float((flow(path, made(line), levels_for(case, path, m)) - reference()).norm()) for m in (n, 2 * n)]
    assert case.order is not None
    assert abs(math.log2(errors[0] / errors[1]) - case.order) < 0.15


def test_names_take_one_evaluation_a_step() -> None:
    assert tuple(kedge.solvers.NAMED) == get_args(kedge.solvers.SolverName)
    assert {solver.evaluations(5) for solver in kedge.solvers.NAMED.values()} == {5}


@those(order=4)
def test_its_order_on_a_gaussian(line: str) -> None:
    """Of order 4, seen with finer steps. The flow is known: `(x / alpha - mean) / sqrt(v + scale^2)` stays."""
    path, n = PATHS["Trig"], 80
    D, x = Factorised(path), torch.linspace(-2, 2, 5, dtype=f64)[:, None]
    exact = D.mean + (x / path.alpha(path.time_at(HIGH)) - D.mean) * math.sqrt((0.5 + LOW**2) / (0.5 + HIGH**2))
    errors: list[float] = []
    for m in (n, 2 * n):
        levels = geometric(path, HIGH, LOW, m)
        errors.append(float((kedge.sample(D, x, Levels(levels), made(line)) / path.alpha(levels[-1]) - exact).norm()))
    assert abs(math.log2(errors[0] / errors[1]) - 4) < 0.15


class Head(nn.Module):
    """A network that says the exact estimate as another quantity."""

    def __init__(self, path: GaussianPath, says: Quantity) -> None:
        super().__init__()
        self.path, self.says = path, says

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        t = self.path.time_of(told)
        return self.path.convert(mixture().posterior_mean(self.path, x, t), x, t, "clean", self.says)


@those(free=True)
def test_it_does_not_see_the_path_nor_the_head(line: str) -> None:
    """x_t / alpha at a noise scale is the same on every path, whatever the network says; so is a walk."""
    ends: list[Tensor] = []
    heads: list[tuple[str, Quantity]] = [("VE", "clean"), ("VP", "eps"), ("Rectified", "velocity"), ("Trig", "score")]
    for name, says in heads:
        path = PATHS[name]
        levels = geometric(path, 4.0, 0.05, 7)
        x = path.alpha(levels[0]) * start(PATHS["VE"], 4.0, SHAPE)
        denoiser = kedge.Denoiser(Head(path, says), path, says, hears="log_snr")
        ends.append(kedge.sample(denoiser, x, Levels(levels), made(line), seeds=1) / path.alpha(levels[-1]))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("line", ALL)
def test_a_sample_is_its_own(line: str) -> None:
    """The same seed brings the same sample: alone, in a batch, and beside others; to rounding, in float32 too."""
    path, law, grid = PATHS["Cosine"], mixture(), LogSNR(4, scale_min=0.1, scale_max=20.0)
    x = start(path, path.time_at(20.0), (3, 2))
    D, solver = law.denoiser(path), made(line)
    seeds = [3, 1, 4]
    whole = kedge.sample(D, x, grid, solver, seeds=seeds)
    alone = torch.cat([kedge.sample(D, x[i : i + 1], grid, solver, seeds=seeds[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-12)
    small = kedge.sample(D, x.float(), grid, solver, seeds=seeds)
    assert small.dtype == torch.float32
    if ALL[line].compiled:  # a chosen step may go the other way at a hair
        torch.testing.assert_close(small.double(), whole, rtol=0, atol=1e-4)
    random = solver.density != "none"
    assert torch.equal(kedge.sample(D, x, grid, solver, seeds=[9, 8, 7]), whole) is not random


@those(entries=True)
def test_levels_of_entries(line: str) -> None:
    """Equal for all entries they are one level; on a staircase of them an entry goes as it would go alone."""
    path, n = PATHS["Rectified"], 5
    course = torch.tensor([*geometric(path, 4.0, 0.1, n - 1), 0.0], dtype=f64)
    x, D = start(path, float(course[0]), (3, 2)), Factorised(path)
    line_of = [kedge.sample(D, x, Levels(levels), made(line), seeds=1) for levels in (course, course[:, None])]
    torch.testing.assert_close(line_of[1], line_of[0], rtol=0, atol=1e-11)
    if made(line).density == "none":
        late = (torch.arange(n + 3)[:, None] - torch.tensor([0, 2])).clamp(0, n)
        stairs = kedge.sample(D, x, Levels(course[late]), made(line))
        if ALL[line].stairs and "own" not in line:  # a start of one's own is where the walk begins
            torch.testing.assert_close(stairs, line_of[0], rtol=0, atol=1e-11)
        assert bool(stairs.isfinite().all())


@pytest.mark.parametrize("line", ALL)
def test_its_cost_and_its_end(line: str) -> None:
    """As many evaluations as it says, or at most; and the last step is the estimate there."""
    path, solver = PATHS["Trig"], made(line)
    D = Factorised(path)
    x = kedge.sample(D, path.prior(SHAPE, dtype=f64), LogSNR(4, scale_max=20.0), solver, seeds=0)
    assert torch.equal(x, D.one(*D.calls[-1]))
    assert len(D.calls) <= solver.evaluations(4)
    if ALL[line].compiled:
        assert len(D.calls) == solver.evaluations(4)


COMPILE = """
import torch, kedge
from kedge.walk.solvers import *
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2).double()
    def forward(self, x, told):
        return torch.tanh(self.layer(torch.cat([x, told[:, None]], 1)))
path = kedge.paths.VariancePreserving()
D = kedge.Denoiser(Net(), path, "clean")
x = torch.randn(4, 2, dtype=torch.float64)
for line in LINES:
    torch._dynamo.reset()
    solver = eval(line)
    walk = lambda x: kedge.sample(D, x, kedge.grids.LogSNR(5), solver, seeds=3)
    torch.testing.assert_close(torch.compile(walk, backend="eager", fullgraph=True)(x), walk(x), rtol=0, atol=1e-12)
    print(line)
"""


@pytest.mark.slow
def test_a_walk_is_one_graph() -> None:
    lines = [line for line, case in ALL.items() if case.compiled]
    done = subprocess.run(
        [sys.executable, "-c", COMPILE.replace("LINES", repr(lines))],
        capture_output=True, text=True, timeout=500, check=False, env=os.environ | {"KEDGE_NO_HOOK": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.split("\n")[:-1] == lines
