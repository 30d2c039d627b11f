"""UniPC is what diffusers has under this name, and its correction is free."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

from typing import Any

import pytest
import torch

import kedge
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.hooks import Pin
from kedge.walk.solvers import DPMSolverPP, UniPC
from systems.schedulers import PEERS, falling, levels_of, walked
from walk.oracles import PATHS, Factorised, geometric, mixture, start

pytestmark = pytest.mark.system

VP = PATHS["VP"]


@pytest.mark.parametrize("b", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_it_is_that_of_diffusers(order: Any, b: Any) -> None:
    D, x, scales = mixture().denoiser(VP), start(VP, VP.time_at(4.0), (4, 2)), falling(4.0, 0.1, 8)

    def make() -> Any:
        return PEERS.UniPCMultistepScheduler(solver_order=order, solver_type=b, lower_order_final=False)

    got = kedge.sample(D, x, Levels(levels_of(VP, scales)), UniPC(order, b))
    torch.testing.assert_close(got, walked(make, scales, D, x), rtol=0, atol=1e-10)


def test_the_correction_pays() -> None:
    """Between two interior levels, at the same cost."""
    D, x = mixture().denoiser(VP), start(VP, VP.time_at(3.0), (64, 2))

    def end(solver: Any, n: int) -> Any:
        return kedge.sample(D, x, Levels(geometric(VP, 3.0, 0.1, n)), solver)

    exact = end(UniPC(3, start="own"), 80)

    def off(solver: Any) -> float:
        return float((end(solver, 20) - exact).norm())

    assert off(UniPC(2)) < 0.5 * off(UniPC(2, corrector=False))
    assert off(UniPC(2)) < 0.5 * off(DPMSolverPP(2))


def test_what_a_pin_holds_is_not_corrected() -> None:
    D = Factorised(VP, pinned="clean")
    values = torch.tensor([0.4, 0.0], dtype=torch.float64)
    pin = Pin(torch.tensor([True, False]), values.expand(3, 2))
    x = kedge.sample(D, VP.prior((3, 2), 0, dtype=torch.float64), LogSNR(6), UniPC(3), [pin])
    assert torch.equal(x[:, 0], values[:1].expand(3))
    assert all(torch.equal(x_t[:, 0], values[:1].expand(3)) for x_t, _ in D.calls)
