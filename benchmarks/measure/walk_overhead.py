"""What a walk costs beside the network calls in it: batch 1, one thread, 20 steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import kedge
from kedge.walk.solvers import DDIM, DDPM, DPMSolverPP, Euler

STEPS, SHAPE = 20, (1, 32, 4)
ROUNDS = 200


class Small(nn.Module):
    """A network that costs next to nothing: what is measured is what lies around it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SHAPE[-1], SHAPE[-1])

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """A linear map, deaf to the level."""
        return self.linear(x)


def walk_overhead() -> list[dict[str, Any]]:
    """Microseconds a step over the bare calls, for kedge and for the peers that are installed."""
    torch.set_num_threads(1)
    rows = [_row("kedge", name, walk) for name, walk in kedge_walks().items()]
    return rows + [_row("diffusers", name, walk) for name, walk in diffusers_walks().items()]


def _row(library: str, name: str, walk: Callable[[], Any]) -> dict[str, Any]:
    bare, excess = bare_calls(), []
    with torch.no_grad():
        for _ in range(ROUNDS):
            alone, whole = _seconds(bare), _seconds(walk)
            excess.append((whole - alone) / STEPS * 1e6)
    low, median, high = (
        statistics.quantiles(excess, n=20)[0],
        statistics.median(excess),
        statistics.quantiles(excess, n=20)[-1],
    )
    return {"library": library, "walk": name, "us_per_step": median, "p5": low, "p95": high}


def _seconds(f: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    f()
    return time.perf_counter() - begun


def bare_calls() -> Callable[[], None]:
    """The network alone, as often as a walk calls it."""
    net, x, told = Small(), torch.randn(SHAPE), torch.zeros(1)

    def run() -> None:
        for _ in range(STEPS):
            net(x, told)

    return run


def kedge_walks() -> dict[str, Callable[[], Any]]:
    """`kedge.sample` as a user calls it: grid and coefficients are planned at the first call and remembered."""
    trig, vp, ve = kedge.paths.Trig(sigma_data=0.5), kedge.paths.VariancePreserving(), kedge.paths.VarianceExploding()
    cases = {
        "trig, DPM-Solver++(2M)": (kedge.Denoiser(Small(), trig, "trig"), DPMSolverPP(2)),
        "trig, DPM-Solver++(3M)": (kedge.Denoiser(Small(), trig, "trig"), DPMSolverPP(3)),
        "edm, DPM-Solver++(2M)": (kedge.Denoiser(Small(), ve, "edm", sigma_data=0.5), DPMSolverPP(2)),
        "eps, DDIM": (kedge.Denoiser(Small(), vp, "eps"), DDIM()),
        "velocity, Euler": (kedge.Denoiser(Small(), kedge.paths.Rectified(), "velocity"), Euler()),
        "eps, DDPM (draws noise)": (kedge.Denoiser(Small(), vp, "eps"), DDPM()),
    }
    return {name: _kedge_walk(denoiser, solver) for name, (denoiser, solver) in cases.items()}


def _kedge_walk(denoiser: kedge.Denoiser, solver: Any) -> Callable[[], Any]:
    x, grid = denoiser.path.prior(SHAPE), kedge.grids.LogSNR(STEPS)
    return lambda: kedge.sample(denoiser, x, grid=grid, solver=solver, seeds=0)


def diffusers_walks() -> dict[str, Callable[[], Any]]:
    """The loop of diffusers' own documentation; nothing where it is not installed."""
    try:
        from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler  # pyright: ignore
    except ImportError:
        return {}
    schedulers = {
        "eps, DDIM": DDIMScheduler(clip_sample=False),
        "eps, DPM-Solver++(2M)": DPMSolverMultistepScheduler(),
        "eps, DDPM (draws noise)": DDPMScheduler(clip_sample=False),
    }
    return {name: _diffusers_walk(scheduler) for name, scheduler in schedulers.items()}


def _diffusers_walk(scheduler: Any) -> Callable[[], Any]:
    net, start, told = Small(), torch.randn(SHAPE), torch.zeros(1)

    def run() -> Tensor:
        scheduler.set_timesteps(STEPS)
        x = start
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, told), t, x).prev_sample
        return x

    return run
