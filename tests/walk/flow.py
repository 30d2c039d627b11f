"""Where the exact flow of a mixture ends, told by an integrator of eighth order, and walks between the same ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import kedge
from kedge.exact import GaussianMixture
from kedge.walk import Solver
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.hooks import Pin, Record
from walk.oracles import PATHS, Factorised, f64, mixture

HIGH, LOW, SHAPE = 1.5, 0.3, (16, 2)


def begun(law: GaussianMixture, high: float = HIGH) -> Tensor:
    """Noised data on the variance-exploding path."""
    z = torch.randn(SHAPE, dtype=f64, generator=torch.Generator().manual_seed(0))
    return law.sample(SHAPE[0], 1) + high * z


@cache
def ended(high: float = HIGH, low: float = LOW) -> Tensor:
    """`dy / dlambda = x_hat - y`, from one noise scale to the other, to 1e-12."""
    law, path = mixture(), PATHS["VE"]

    def velocity(lam: float, y: object) -> object:
        y = torch.as_tensor(y).reshape(SHAPE)
        return (law.posterior_mean(path, y, math.exp(-lam)) - y).flatten().numpy()

    span = -math.log(high), -math.log(low)
    y = solve_ivp(velocity, span, begun(law, high).flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-13).y
    return torch.as_tensor(y[:, -1]).reshape(SHAPE)


def scales(n: int, own: bool = False, high: float = HIGH, low: float = LOW) -> list[float]:
    """n equal steps in log-SNR; `own` lets four very short ones come first, so that the first steps of a multistep
    method, which are of lower orders, add errors of its own order.
    """
    whole = math.log(high / low)
    e = (whole / n) ** 2 / 4 if own else 0.0
    first = [k * e for k in range(4)] if own else []
    lam = [*first, *(4 * e + (whole - 4 * e) * i / n for i in range(n + 1))]
    return [high * math.exp(-one) for one in lam]


def walked(solver: Solver, at: Sequence[float], name: str = "VE", law: GaussianMixture | None = None) -> Tensor:
    """The end of a walk over these noise scales, divided by alpha: then all paths have the same one."""
    path, law = PATHS[name], law or mixture()
    levels = [path.time_at(scale) for scale in at]
    x = path.alpha(levels[0]) * begun(law, at[0])
    return kedge.sample(law.denoiser(path), x, Levels(levels), solver, seeds=0) / path.alpha(levels[-1])


def slope(solver: Solver, n: int, own: bool = False) -> float:
    """The measured order between n and 2n steps."""
    errors = [float((walked(solver, scales(k, own)) - ended()).norm()) for k in (n, 2 * n)]
    return math.log2(errors[0] / errors[1])


def holds(solver: Solver, entries: bool = True) -> None:
    """What every solver owes the walk: float32, the same samples in any batch, hooks, a level for each entry, the
    estimate at its end, and no more evaluations than it says.
    """
    path = PATHS["VP"]
    D = Factorised(path, mean=torch.tensor([0.3, -0.2], dtype=f64), variance=torch.tensor([0.5, 0.1], dtype=f64))
    x, grid = path.prior((5, 2), 0, dtype=f64), LogSNR(6)
    mask, values = torch.tensor([False, True]), torch.zeros(2, dtype=f64)
    record = Record()
    pinned = kedge.sample(D, x, grid, solver, hooks=[Pin(mask, values), record], seeds=list(range(5)))
    assert len(D.calls) == solver.evaluations(6)
    assert (pinned[:, 1] == 0).all()
    assert len(record.x) == 7
    whole = kedge.sample(D, x, grid, solver, seeds=list(range(5)))
    torch.testing.assert_close(whole, D.one(*D.calls[-1]), rtol=0, atol=1e-12)
    alone = kedge.sample(D, x[3:4], grid, solver, seeds=[3])
    torch.testing.assert_close(alone, whole[3:4], rtol=0, atol=1e-12)
    short = kedge.sample(D, x.float(), grid, solver, seeds=list(range(5)))
    assert short.dtype == torch.float32
    if solver.density == "none":
        torch.testing.assert_close(short.double(), whole, rtol=1e-4, atol=1e-4)
    if entries:
        times = torch.as_tensor(grid.levels(path).t, dtype=f64)
        per_entry = kedge.sample(D, x, Levels(times[:, None].expand(7, 2)), solver, seeds=list(range(5)))
        torch.testing.assert_close(per_entry, whole, rtol=0, atol=1e-10)
        # the second entry is at its end two steps early, and waits one step in the middle
        other = times[torch.tensor([0, 1, 1, 3, 6, 6, 6])]
        waiting = kedge.sample(D, x, Levels(torch.stack([times, other], 1)), solver, seeds=list(range(5)))
        torch.testing.assert_close(waiting[:, 0], whole[:, 0], rtol=0, atol=1e-10)
        assert waiting.isfinite().all()
