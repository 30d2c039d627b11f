"""DPM-Solver++: as diffusers has it, and where it is needed: under strong guidance."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import kedge
from kedge.exact import GaussianMixture
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.hooks import Record, Threshold
from kedge.walk.solvers import DDIM, DPMSolver, DPMSolverPP
from systems.schedulers import PEERS, falling, levels_of, walked
from walk.oracles import PATHS, mixture, start

pytestmark = pytest.mark.system

VP = PATHS["VP"]
SOLVER_TYPE = {"midpoint": "midpoint", "taylor": "heun"}
"""Diffusers' names of the forms."""


@pytest.mark.parametrize("form", ["midpoint", "taylor"])
@pytest.mark.parametrize("multistep", [True, False])
def test_order_2_is_that_of_diffusers(form: Any, multistep: bool) -> None:
    """Singlestep inner points are levels of the grid there: here those half way in log-SNR."""
    D, x = mixture().denoiser(VP), start(VP, VP.time_at(4.0), (4, 2))
    scales = falling(4.0, 0.1, 8) if multistep else [4.0 * (0.1 / 4.0) ** (i / 8) for i in range(9)]
    of = PEERS.DPMSolverMultistepScheduler if multistep else PEERS.DPMSolverSinglestepScheduler
    settings = {"solver_type": SOLVER_TYPE[form], "lower_order_final": False, "final_sigmas_type": "sigma_min"}
    expected = walked(lambda: of(**settings), scales, D, x)
    levels = levels_of(VP, scales if multistep else scales[::2])
    got = kedge.sample(D, x, Levels(levels), DPMSolverPP(2, multistep, form=form))
    # diffusers' multistep takes the sample through float32
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6 if multistep else 1e-10)


WHOLE = GaussianMixture([0.5, 0.5], torch.tensor([[-0.5, 0.0], [0.5, 0.2]], dtype=torch.float64), [0.02, 0.03])
PART = GaussianMixture([1.0], torch.tensor([[0.5, 0.2]], dtype=torch.float64), [0.03])


class Guided:
    """Toward the second of two components, eight times as strongly as their own classifier would."""

    path = VP

    def __call__(self, x: Tensor, t: Any) -> Tensor:
        whole, part = (law.posterior_mean(VP, x, t) for law in (WHOLE, PART))
        return whole + 8.0 * (part - whole)


def test_guided_fifteen_evaluations() -> None:
    x = VP.prior((64, 2), 0, dtype=torch.float64)
    exact = kedge.sample(Guided(), x, LogSNR(150, scale_min=0.02), DPMSolverPP(2))

    def off(solver: Any, steps: int) -> float:
        assert solver.evaluations(steps) == 15
        end = kedge.sample(Guided(), x, LogSNR(steps, scale_min=0.02), solver)
        return float((end - exact).square().mean().sqrt())

    single, multi, implicit, noise = (
        off(solver, steps)
        for solver, steps in [(DPMSolverPP(2, False), 8), (DPMSolverPP(2), 15), (DDIM(), 15), (DPMSolver(2), 8)]
    )
    assert single <= 0.5 * implicit
    assert noise >= 4 * max(implicit, multi)
    assert multi > implicit  # the multistep form gains nothing here


@pytest.mark.parametrize("quantile", [None, 0.995])
def test_thresholded_estimates_stay_in_the_box(quantile: float | None) -> None:
    record, x = Record(), VP.prior((64, 2), 0, dtype=torch.float64)
    walk = kedge.Walk(Guided(), DPMSolverPP(2), LogSNR(15), [Threshold(1.0, quantile), record])
    end: Any = walk.run(x).x
    steps: Any = record.steps
    ends: list[Any] = [end, *(step.estimate.x for step in steps)]
    assert len(ends) == 16
    assert max(float(end.abs().max()) for end in ends) <= 1.0
    assert float(kedge.sample(Guided(), x, LogSNR(15), DPMSolverPP(2)).abs().max()) > 1.0
