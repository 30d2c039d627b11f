"""Restart sampling: what was wrong above an interval is forgotten in it."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import kedge
from kedge.exact import GaussianMixture
from kedge.walk.grids import Levels, Restart, Rho
from kedge.walk.solvers import DDIM, Heun
from walk.oracles import PATHS

pytestmark = pytest.mark.system

VE = PATHS["VE"]


def test_its_levels() -> None:
    grid = Levels([80.0, 10.0, 1.1, 0.1, 0.0])
    made = Restart(grid, 1.0, 4.0, times=2, steps=2, rho=1).levels(VE)
    again = [4.0, 2.55, 1.1]
    assert made.t == pytest.approx([80.0, 10.0, 1.1, *again, *again, 0.1, 0.0])
    assert made.rise == "noise"
    assert Restart(grid, 1.0, 4.0, times=0).levels(VE).t == grid.t
    two = Restart(Restart(grid, 10.0, 40.0, steps=1), 0.1, 0.3, steps=1).levels(VE).t
    assert two == pytest.approx([80.0, 10.0, 40.0, 10.0, 1.1, 0.1, 0.3, 0.1, 0.0])
    rho = Restart(grid, 1.1, 4.0, steps=3).levels(VE).t
    assert rho[3:6] == pytest.approx([(4 ** (1 / 7) + i / 3 * (1.1 ** (1 / 7) - 4 ** (1 / 7))) ** 7 for i in range(3)])
    for low, high in ((2.0, 1.0), (0.0, 1.0), (1.0, 100.0), (10.0, 9.0)):
        with pytest.raises(ValueError, match="Restart"):
            Restart(grid, low, high).levels(VE)


@pytest.mark.parametrize("times", [1, 3])
def test_an_error_from_above_is_contracted_at_a_known_rate(times: int) -> None:
    """On a Gaussian of variance v the flow from `high` to `low` is linear, of slope
    `c = sqrt((v + low^2) / (v + high^2))`: noise does not change a difference, so K restarts leave c^K of it.
    """
    v, low, high = 0.25, 0.3, 1.0
    law = GaussianMixture([1.0], torch.zeros(1, 2, dtype=torch.float64), [v])
    grid = Restart(Levels([low, 0.2]), low, high, times, steps=40)
    x = law.marginal(VE, low).sample(4, seeds=0)
    ends = [kedge.sample(law.denoiser(VE), x + off, grid, Heun(), seeds=1) for off in (0.5, 0.0)]
    c = math.sqrt((v + low**2) / (v + high**2))
    final = math.sqrt((v + 0.2**2) / (v + low**2))
    torch.testing.assert_close(ends[0] - ends[1], 0.5 * final * c**times * torch.ones_like(x), rtol=0.01, atol=0)


LAW = GaussianMixture([0.5, 0.5], torch.tensor([[-0.6, 0.0], [0.6, 0.0]], dtype=torch.float64), [0.01, 0.01])


class Perturbed:
    """The exact denoiser, off by as much as a network that has seen little of the noisy levels."""

    path = VE

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, t: Any) -> Tensor:
        self.calls += 1
        return LAW.posterior_mean(VE, x, t) + torch.tensor([0.25, 0.15], dtype=torch.float64) * t**2 / (1 + t**2)


def distance(x: Tensor, seeds: int = 5) -> float:
    """The energy distance to the data's law."""
    y = LAW.sample(len(x), seeds=seeds)
    return float(2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean())


def test_a_perturbed_score_errs_less() -> None:
    """At equal evaluations, or more for the walk without."""
    x, off, calls = VE.prior((1500, 2), 0, dtype=torch.float64), [], []
    low, high = 0.1, 0.7
    main = Rho(10, scale_max=20.0)
    for grid in (Restart(main, low, high, times=4, steps=4), Rho(26, scale_max=20.0)):
        D = Perturbed()
        off.append(distance(kedge.sample(D, x, grid, Heun(), seeds=1)))
        calls.append(D.calls)
    assert calls[0] <= calls[1]
    assert off[0] < 0.5 * off[1]
    # a step of ancestral noise at each level forgets less
    assert off[0] < distance(kedge.sample(Perturbed(), x, Rho(51, scale_max=20.0), DDIM(1.0), seeds=1))
