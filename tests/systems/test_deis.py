"""DEIS: over log-SNR as in diffusers, over time as in the paper."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import kedge
from kedge.walk.grids import Levels
from kedge.walk.solvers import DDIM, DEIS, DPMSolver
from systems.schedulers import PEERS, falling, levels_of, noise_of, walked
from walk.oracles import PATHS, mixture, start

pytestmark = pytest.mark.system

VP = PATHS["VP"]
SCALES = falling(4.0, 0.1, 8)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_over_log_snr_it_is_that_of_diffusers(order: Any) -> None:
    D, x = mixture().denoiser(VP), start(VP, VP.time_at(4.0), (4, 2))
    expected = walked(lambda: PEERS.DEISMultistepScheduler(solver_order=order, lower_order_final=False), SCALES, D, x)
    got = kedge.sample(D, x, Levels(levels_of(VP, SCALES)), DEIS(order, "log_snr"))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", [2, 3])
def test_over_time_it_is_the_papers_integral(order: Any) -> None:
    """`C_j = int rho'(tau) l_j(tau) d tau`, by the trapezium rule on 200,001 points of tau."""
    D, x, t = mixture().denoiser(VP), start(VP, VP.time_at(4.0), (4, 2)), levels_of(VP, SCALES[:5])
    got = kedge.sample(D, x, Levels(t), DEIS(order))
    past: list[Any] = []
    for i, (now, to) in enumerate(pairwise(t)):
        past = [(now, noise_of(D, x, now)), *past][:order]
        tau = np.linspace(now, to, 200_001)
        log_alpha = -0.25 * tau**2 * 19.9 - 0.05 * tau
        rho = np.sqrt(-np.expm1(2 * log_alpha)) / np.exp(log_alpha)
        x = VP.alpha(to) / VP.alpha(now) * x
        for j, (mine, eps) in enumerate(past):
            others = [other for k, (other, _) in enumerate(past) if k != j]
            l_j = np.prod([(tau - other) / (mine - other) for other in others], axis=0) * np.ones_like(tau)
            x = x + VP.alpha(to) * float(np.sum((l_j[1:] + l_j[:-1]) / 2 * np.diff(rho))) * eps
        assert len(past) == min(i + 1, order)
    torch.testing.assert_close(got, x, rtol=0, atol=1e-8)


def test_at_eight_evaluations_it_beats_ddim() -> None:
    D, x = mixture().denoiser(VP), start(VP, VP.time_at(4.0), (64, 2))
    levels = levels_of(VP, SCALES)
    exact = kedge.sample(D, x, Levels(levels_of(VP, falling(4.0, 0.1, 60))), DPMSolver(3))
    time, log_snr, ddim = (
        float((kedge.sample(D, x, Levels(levels), solver) - exact).norm())
        for solver in (DEIS(3), DEIS(3, "log_snr"), DDIM())
    )
    assert time < 0.6 * ddim
    assert log_snr < 0.6 * ddim
