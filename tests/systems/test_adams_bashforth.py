"""Adams and Bashforth's method: the textbook's weights on even levels, and the right ones on others."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import kedge
from kedge.walk.grids import Levels
from kedge.walk.solvers import AdamsBashforth, DPMSolver
from systems.schedulers import PEERS, levels_of, noise_of
from walk.oracles import PATHS, Spy, geometric, mixture, start

pytestmark = pytest.mark.system

VP = PATHS["VP"]


def ipndm(scales: list[float], D: Any, x: Tensor) -> Tensor:
    """Diffusers' on these noise scales: in its tables are a path's alpha and sigma, called alphas and betas."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = PEERS.IPNDMScheduler(len(scales) - 1)
    times = levels_of(VP, scales)
    scheduler.alphas = torch.tensor([VP.alpha(t) for t in times], dtype=torch.float64)
    scheduler.betas = torch.tensor([VP.sigma(t) for t in times], dtype=torch.float64)
    scheduler.timesteps = torch.arange(len(scales) - 1, 0, -1)
    for i, k in enumerate(scheduler.timesteps):
        eps, alpha, sigma = noise_of(D, x, times[i]), scheduler.alphas[i], scheduler.betas[i]
        # it makes eps of what it takes for a velocity: sigma x + alpha v
        x = scheduler.step((eps - sigma * x) / alpha, k, x).prev_sample
    return x


def test_on_even_noise_scales_it_is_ipndm() -> None:
    D, x = mixture().denoiser(VP), start(VP, VP.time_at(2.0), (4, 2))
    scales = [2.0 - 0.2 * i for i in range(9)]
    got = kedge.sample(D, x, Levels(levels_of(VP, scales)), AdamsBashforth(4))
    torch.testing.assert_close(got, ipndm(scales, D, x), rtol=0, atol=1e-10)


def test_a_cubic_noise_is_integrated_exactly() -> None:
    """On uneven levels, from the fourth step on; the textbook's weights are not exact there."""

    def polynomial(r: float) -> float:
        return 1 - 2 * r + 3 * r**2 - r**3

    def integral(r: float) -> float:
        return r - r**2 + r**3 - r**4 / 4

    VE = PATHS["VE"]
    D = Spy(VE, lambda x, t: x - t * polynomial(t) * torch.ones_like(x))
    scales = [3.0, 2.9, 2.5, 2.2, 1.2, 1.0, 0.4]
    x = torch.zeros(1, 1, dtype=torch.float64)
    ends = [float(kedge.sample(D, x, Levels(scales[: n + 1]), AdamsBashforth(4))) for n in (3, 6)]
    assert ends[1] - ends[0] == pytest.approx(integral(0.4) - integral(2.2), abs=1e-12)


def test_the_textbooks_weights_elsewhere() -> None:
    """On levels even in log-SNR they are of order 2, whatever their number; but in few steps they are the better ones
    there, for they are nearly those of a polynomial in the log-SNR.
    """
    D, x = mixture().denoiser(VP), start(VP, VP.time_at(3.0), (16, 2))
    exact = kedge.sample(D, x, Levels(geometric(VP, 3.0, 0.1, 60)), DPMSolver(3))

    def off(n: int) -> tuple[float, float]:
        scales = [3.0 * (0.1 / 3.0) ** (i / n) for i in range(n + 1)]
        own = kedge.sample(D, x, Levels(levels_of(VP, scales)), AdamsBashforth(4))
        return float((own - exact).norm()), float((ipndm(scales, D, x) - exact).norm())

    few, some, many = off(12), off(24), off(48)
    assert abs(math.log2(some[1] / many[1]) - 2) < 0.15
    assert few[1] < 0.3 * few[0]
