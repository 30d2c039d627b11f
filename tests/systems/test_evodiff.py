"""EVODiff: coefficients of each step by projections of its estimates on each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import kedge
from kedge.noise import Noise
from kedge.walk import Solver
from kedge.walk.grids import Levels
from kedge.walk.hooks import Record
from kedge.walk.solvers import Decision, DPMSolverPP, EVODiff, Unified
from walk.flow import begun, holds, scales, slope, walked
from walk.oracles import PATHS, geometric, mixture

pytestmark = pytest.mark.system


def projected(a: Tensor, b: Tensor) -> Tensor:
    return ((a * b).sum(-1, keepdim=True) / (b * b).sum(-1, keepdim=True)).clamp(-2, 2)


def rewritten(D: Any, x: Tensor, sigma: list[float]) -> list[Tensor]:
    """The released update with alpha = 1 and kappa = sigma = t: where the model was asked, step by step."""
    steps = len(sigma) - 1
    asked, m = [x], [D(x, sigma[0])]
    x = sigma[1] / sigma[0] * x + (1 - sigma[1] / sigma[0]) * m[0]
    for i in range(2, steps + 1):
        m.append(D(x, sigma[i - 1]))
        asked.append(x)
        if i > 2:
            x = finished(asked[-1], *m[-3:], *made[1:])  # noqa: F821
        made = probed(x, m[-1], m[-2], sigma, i)
        x = made[0]
    return [*asked, x]


def probed(x: Tensor, m_0: Tensor, m_1: Tensor, sigma: list[float], i: int) -> tuple[Any, ...]:
    t, s, before = sigma[i], sigma[i - 1], sigma[i - 2]
    h = 1 / t - 1 / s
    r_log = math.log(before / s) / math.log(s / t)
    weight = 0.5 * (1 - ((t + sigma[-1]) / (sigma[0] + sigma[-1])) ** 2)
    base = math.sqrt((t / s) / (s / before))
    rho = (1 - weight) * base + weight * projected(m_0, m_1)
    D_1 = m_0 - rho * m_1
    r_i = (torch.sigmoid(0.25 * rho.abs()) * r_log).clamp(0.25 * r_log, 1.5 * r_log)
    x_e = t / s * x + t * h * m_0
    return x_e + 0.5 * t * h / r_i * D_1, x_e, D_1, r_i, r_log, h, t, t / s, weight, base, len(sigma) - 1


def finished(
    x_p: Tensor, m_1: Tensor, m_0: Tensor, m_t: Tensor, x_e: Tensor, D_1: Tensor, r_i: Tensor, *rest: Any
) -> Tensor:
    r_log, h, t, ratio, weight, base, steps = rest
    D_2 = m_t - ((1 - weight) * base + weight * projected(m_t, m_0)) * m_0
    before, after = D_1 / r_log / h, r_log / h * D_2
    eta = 0.5 * torch.sigmoid((0.5 * projected(after + before, after - before)).abs())
    B = -eta / r_log * D_1 + r_log * (1 - eta) * D_2
    shifted = (projected(x_p - x_e - 0.5 * t * h / r_i * B, D_1) / (h * t)).abs() - 0.5
    if steps > 20:
        shifted = -shifted * torch.sigmoid(projected(m_0, (m_0 - m_1) / h) * (2 - ratio**2))
    return x_e + 0.5 * t * h / torch.sigmoid(shifted) * B


@pytest.mark.parametrize("n", [7, 24])
def test_the_released_update(n: int) -> None:
    D, x, record = mixture().denoiser(PATHS["VE"]), begun(mixture()), Record()
    at = scales(n)
    levels = [PATHS["VE"].time_at(scale) for scale in at]
    kedge.sample(D, x, Levels(levels), EVODiff(), hooks=[record])
    for mine, theirs in zip(record.x, rewritten(D, x, at), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


def test_without_projections_it_is_a_midpoint_with_a_corrector() -> None:
    other = Unified((Decision(1), Decision(2, corrector=2, slope="half")))
    torch.testing.assert_close(walked(EVODiff(adapt=False), scales(9)), walked(other, scales(9)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("solver", "order"), [(EVODiff(adapt=False), 2), (EVODiff(), 1)], ids=["frozen", "adapted"])
def test_order(solver: EVODiff, order: int) -> None:
    assert abs(slope(solver, 40) - order) < 0.15


@pytest.mark.parametrize("name", ["VP", "Cosine", "Rectified", "Trig"])
def test_it_does_not_see_the_path(name: str) -> None:
    torch.testing.assert_close(walked(EVODiff(), scales(7), name), walked(EVODiff(), scales(7)), rtol=0, atol=1e-11)


@pytest.mark.parametrize("adapt", [True, False])
def test_what_a_solver_owes_the_walk(adapt: bool) -> None:
    holds(EVODiff(adapt), entries=False)
    with pytest.raises(ValueError, match="entries cannot have levels of their own"):
        EVODiff(adapt).plan(PATHS["VP"], [torch.tensor([[0.5, 0.4]]), torch.zeros(1, 2)])


def test_what_projections_buy_on_a_mixture() -> None:
    """Root mean square distances from where the flow ends, from noise scale 10 to .05. Adapted coefficients are within
    a tenth of the midpoint's at 5 evaluations and worse from 6 on; fixed ones are better than both.
    """
    D, x = mixture().denoiser(PATHS["VE"]), 10.0 * Noise.of(1, 128).normal((128, 2), 0)

    def walk(solver: Solver, n: int) -> Tensor:
        return kedge.sample(D, x, Levels(geometric(PATHS["VE"], 10.0, 0.05, n)), solver)

    exact = walk(DPMSolverPP(3, multistep=False), 80)
    for n in (5, 8):
        solvers = EVODiff(), EVODiff(adapt=False), DPMSolverPP(2)
        adapted, fixed, midpoint = (float((walk(solver, n) - exact).norm()) for solver in solvers)
        assert adapted > 0.9 * midpoint
        assert fixed < midpoint


def test_channels_have_coefficients_of_their_own() -> None:
    """A state of two channels is two states of one."""
    path, x = PATHS["VE"], begun(mixture()).reshape(8, 2, 2)
    levels = Levels([path.time_at(scale) for scale in scales(6)])

    def D(x: Any, t: Any) -> Any:
        return (3 * x / (1 + t)).tanh()

    D.path = path  # pyright: ignore[reportFunctionMemberAccess]
    whole = kedge.sample(D, x, levels, EVODiff(channel=1))
    for k in range(2):
        torch.testing.assert_close(kedge.sample(D, x[:, k], levels, EVODiff()), whole[:, k], rtol=0, atol=1e-12)
