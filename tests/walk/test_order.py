"""Every deterministic solver has the order it claims, on every path."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

import kedge
from kedge.walk import Solver
from kedge.walk.grids import Levels
from kedge.walk.solvers import DPMSolverPP
from walk.oracles import DETERMINISTIC, PATHS, geometric, mixture

HIGH, LOW = 3.0, 0.1
ORDERS = {
    "Euler": 1, "Heun": 2, "DDIM": 1, "1": 1, "2M": 2, "2M-own": 2, "2S": 2, "3M": 2, "3M-own": 3, "3S": 3,
}  # fmt: skip
"""A third-order multistep walk that starts at lower orders is of order 2 in the end: its first steps' errors stay."""
N = 40


def times(name: str, solver: str, n: int) -> list[float]:
    path = PATHS[name]
    if solver not in ("Euler", "Heun"):
        return geometric(path, HIGH, LOW, n)
    high, low = path.time_at(HIGH), path.time_at(LOW)
    return [high + i / n * (low - high) for i in range(n + 1)]


def walked(name: str, solver: Solver, levels: list[float]) -> Tensor:
    """From noise scale HIGH to LOW, divided by alpha: then all paths have the same solution."""
    path, law = PATHS[name], mixture()
    z = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = path.alpha(path.time_at(HIGH)) * (law.sample(16, 1) + HIGH * z)
    return kedge.sample(law.denoiser(path), x, Levels(levels), solver) / path.alpha(path.time_at(LOW))


@cache
def reference() -> Tensor:
    """Third order, and four times as fine as what it judges: its own error is 1/64 of a third-order one's."""
    return walked("VE", DPMSolverPP(3, multistep=False), geometric(PATHS["VE"], HIGH, LOW, 8 * N))


def error(name: str, solver: str, n: int) -> float:
    return float((walked(name, DETERMINISTIC[solver], times(name, solver, n)) - reference()).norm())


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("path", PATHS)
def test_order_of_convergence(path: str, solver: str) -> None:
    slope = math.log2(error(path, solver, N) / error(path, solver, 2 * N))
    assert abs(slope - ORDERS[solver]) < 0.15
