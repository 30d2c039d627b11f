"""Runge-Kutta in the noise scale: its order, the path that it does not see, and what every solver does."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import kedge
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.hooks import Pin
from kedge.walk.solvers import DDIM, RungeKutta
from walk.oracles import PATHS, Factorised, f64, geometric, mixture, start

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "heun3": 3, "rk4": 4}
HIGH, LOW = 3.0, 0.1


@cache
def walked(path: str, method: Any, n: int) -> Tensor:
    p, law = PATHS[path], mixture()
    x = p.alpha(p.time_at(HIGH)) * (law.sample(8, 1) + HIGH * start(PATHS["VE"], 0.0, (8, 2)))
    end = kedge.sample(law.denoiser(p), x, Levels(geometric(p, HIGH, LOW, n)), RungeKutta(method))
    return end / p.alpha(p.time_at(LOW))


@pytest.mark.parametrize("method", ORDERS)
def test_order_of_convergence(method: str) -> None:
    """Finer for the first orders, whose errors are still far from their law at 20 steps."""
    n = 20 if method == "rk4" else 40
    errors = [float((walked("Cosine", method, k) - walked("Cosine", "rk4", 160)).norm()) for k in (n, 2 * n)]
    assert abs(math.log2(errors[0] / errors[1]) - ORDERS[method]) < 0.15


@pytest.mark.parametrize("path", [name for name in PATHS if name != "VE"])
def test_it_does_not_see_the_path(path: str) -> None:
    for method in ("midpoint", "rk4"):
        torch.testing.assert_close(walked(path, method, 10), walked("VE", method, 10), rtol=0, atol=1e-9)


def test_eulers_is_ddim() -> None:
    x, D = start(PATHS["VP"], 1.0, (4, 2)), mixture().denoiser(PATHS["VP"])
    ends = [kedge.sample(D, x, LogSNR(6), solver) for solver in (RungeKutta("euler"), DDIM())]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ORDERS)
def test_levels_of_entries_rests_and_evaluations(method: Any) -> None:
    """Each entry as if it were alone, also where it rests or has arrived; in float32 as well, pinned."""
    path, solver = PATHS["Rectified"], RungeKutta(method)
    first, second = geometric(path, 8.0, 0.1, 3), geometric(path, 2.0, 0.5, 3)
    second[2] = second[1]
    t = torch.tensor([[*first, 0.0, 0.0], [*second, 0.2, 0.0]], dtype=f64).T
    D, x = Factorised(path), start(path, 0.8, (5, 2))
    both = kedge.sample(D, x, Levels(t), solver)
    for i in range(2):
        alone = kedge.sample(D, x[:, i : i + 1], Levels(t[:, i].tolist()), solver)
        torch.testing.assert_close(both[:, i : i + 1], alone, rtol=0, atol=1e-12)
    D.calls.clear()
    pin = Pin(torch.tensor([True, False]), torch.ones(2))
    single = kedge.sample(D, x.float(), LogSNR(4, 0.1, 8.0), solver, [pin])
    assert single.dtype == torch.float32
    assert bool((single[:, 0] == 1).all())
    assert len(D.calls) == solver.evaluations(4)
