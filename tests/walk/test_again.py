"""Levels that are walked again: which they are, and what the chain at each of them settles at."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kedge import Walk
from kedge.exact import GaussianMixture
from kedge.paths import Trig, VariancePreserving
from kedge.walk.grids import Again, Below, Levels, LogSNR
from kedge.walk.hooks import Record
from kedge.walk.solvers import DDIM, DDPM

PATH = Trig()
V = 0.6
"""The variance of the data."""


def test_each_step_again() -> None:
    grid = Levels([1.0, 0.5, 0.0])
    assert Again(grid, 1).levels(PATH).t == [1.0, 0.5, 0.0]
    assert Again(grid, 3).levels(PATH).t == [1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 0.0, 0.5, 0.0, 0.5, 0.0]
    assert Again(grid, 2, by="clean").levels(PATH).t == [1.0, 0.0, 1.0, 0.5, 0.0, 0.5, 0.0]
    assert Again(grid, 2).levels(PATH).rise == "noise"
    with pytest.raises(ValueError, match="1 or more times"):
        Again(grid, 0)


def settled(by: Any, solver: Any, low: float, high: float, times: int = 30) -> tuple[float, float]:
    """The variance of x / alpha at the upper level after many times, and its Monte-Carlo error."""
    law = GaussianMixture([1.0], torch.zeros(1, 1, dtype=torch.float64), [V])
    record, count = Record(), 10_000
    grid = Again(Levels([PATH.time_at(high), PATH.time_at(low)]), times, by)
    Walk(law.denoiser(PATH), solver, grid, [record]).run(torch.zeros(count, 1, dtype=torch.float64), seeds=0)
    there: Any = record.x[-2]  # before the last step down
    assert isinstance(there, Tensor)
    variance = float(there.var()) / PATH.alpha(PATH.time_at(high)) ** 2
    return variance, variance * math.sqrt(2 / count)


@pytest.mark.parametrize("solver", [DDIM(), DDPM()], ids=["DDIM", "DDPM"])
def test_by_a_step_it_settles_at_the_marginal(solver: Any) -> None:
    """`v + r^2`, up to the square of the step, which is small here."""
    found, error = settled("step", solver, 0.9, 1.0, times=50)
    assert found == pytest.approx(V + 1.0, abs=4 * error + 0.02)


@pytest.mark.parametrize("r", [0.5, 1.0, 2.0])
def test_by_the_clean_estimate_it_settles_nearer_to_the_modes(r: float) -> None:
    """`(v + r^2)^2 / (2 v + r^2)`."""
    found, error = settled("clean", DDIM(), 0.9 * r, r)
    assert found == pytest.approx((V + r * r) ** 2 / (2 * V + r * r), abs=4 * error)
    assert found < V + r * r - 5 * error


def test_below_a_noise_scale() -> None:
    grid = LogSNR(4, scale_min=0.1, scale_max=10.0)
    for path in (PATH, VariancePreserving()):
        t = list(Below(grid, 1.0).levels(path).t)
        assert [path.noise_scale(level) for level in t[:-1]] == pytest.approx([1.0, 10 ** (-1 / 3), 0.1], rel=1e-9)
        assert t[-1] == 0.0
        exact = [path.noise_scale(level) for level in Below(grid, 0.1).levels(path).t[:-1]]
        assert exact == pytest.approx([0.1], rel=1e-9)  # a level of the grid's own is not there twice
    with pytest.raises(ValueError, match="noise scale"):
        Below(grid, 1e9).levels(PATH)
