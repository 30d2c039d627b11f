"""Heun's method on churned levels is EDM's algorithm 2."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import itertools
import math

import pytest
import torch

import kedge
from kedge.walk.grids import Churned, Rho
from kedge.walk.solvers import Heun
from walk.oracles import PATHS, mixture, normals, start

pytestmark = pytest.mark.system

VE = PATHS["VE"]


@pytest.mark.parametrize(("churn", "low", "high"), [(2.0, 0.05, 10.0), (80.0, 0.1, 1.0)])
def test_it_is_algorithm_2(churn: float, low: float, high: float) -> None:
    D, grid = mixture().denoiser(VE), Rho(8, scale_max=20.0)
    t = [float(v) for v in grid.levels(VE).rows()]
    N = len(t) - 1
    x = x_0 = start(VE, t[0], (5, 2))
    noise = iter(normals(7, (5, 2), 2 * N))
    for t_i, t_next in itertools.pairwise(t):
        gamma = min(churn / N, math.sqrt(2) - 1) if low <= t_i <= high else 0.0
        t_hat = t_i + gamma * t_i
        if gamma:
            x = x + math.sqrt(t_hat**2 - t_i**2) * next(noise)
        next(noise)  # a step's numbers are its own, whether it draws or not
        d_i = (x - D(x, t_hat)) / t_hat
        x_next = x + (t_next - t_hat) * d_i
        if t_next != 0:
            d_next = (x_next - D(x_next, t_next)) / t_next
            x_next = x + (t_next - t_hat) * (d_i / 2 + d_next / 2)
        x = x_next
    got = kedge.sample(D, x_0, Churned(grid, churn, low, high), Heun(), seeds=7)
    torch.testing.assert_close(got, x, rtol=0, atol=1e-10)
