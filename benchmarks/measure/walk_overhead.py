"""What a walk costs beside the network calls in it: batch 1, one thread, 20 steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import kedge
from kedge.denoise import Accelerating
from kedge.walk.solvers import DDIM, DDPM, DPMSolverPP, Euler, LinearMultistep
from kedge.walk.walk import is_remembered
from measure.every_solver import ALL, APART, made

STEPS, SHAPE = 20, (1, 32, 4)
ROUNDS = 200
MEASURE = "DPMSolverPP(2)"
"""What every solver is compared with in the same rounds: the one that is taken by default."""


class Small(nn.Module):
    """A network that costs next to nothing: what is measured is what lies around it."""

    def __init__(self, inputs: int = SHAPE[-1]) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, SHAPE[-1])

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """A linear map, deaf to the level."""
        return self.linear(x)


@dataclass(frozen=True)
class Timed:
    """A walk, and the calls of its network without one."""

    walk: Callable[[], Any]
    bare: Callable[[], Any]
    calls: int = STEPS

    def excess(self) -> float:
        """Microseconds of one walk that the calls do not take."""
        alone, whole = _seconds(self.bare), _seconds(self.walk)
        return 1e6 * (whole - alone)


def walk_overhead() -> list[dict[str, Any]]:
    """Microseconds a step over the bare calls, for kedge and for the peers that are installed."""
    walks = {("kedge", name): walk for name, walk in kedge_walks().items()}
    walks |= {("diffusers", name): walk for name, walk in diffusers_walks().items()}
    timed = {name: Timed(walk, bare_calls(Small(), STEPS)) for name, walk in walks.items()}
    return [
        {"library": library, "walk": name} | _spread("us_per_step", found, STEPS)
        for (library, name), found in excesses(timed).items()
    ]


def solver_overhead() -> list[dict[str, Any]]:
    """The same for every exported solver, on one path and one head: by the step, by the network call (some solvers make
    several a step), and as so many times that of the default solver in the same round. Adaptive solvers make a few
    calls in each step of the grid.
    """
    timed = {line: _timed(line) for line in dict.fromkeys([*ALL, *APART.values()])}
    found = excesses(timed)
    by_call = {line: [us / timed[line].calls for us in each] for line, each in found.items()}
    rows: list[dict[str, Any]] = []
    for line, each in found.items():
        own = statistics.median(by_call[line])
        row = {"solver": line, "calls": timed[line].calls, "us_per_call": own}
        compared = {"of_default": own / statistics.median(by_call[MEASURE]), "plan_kept": is_remembered(made(line))}
        rows.append(row | _spread("us_per_step", each, STEPS) | compared)
    return rows


def excesses(timed: dict[Any, Timed], rounds: int | None = None) -> dict[Any, list[float]]:
    """Round by round, microseconds of each: they take turns, so that what else the machine does falls on all alike."""
    torch.set_num_threads(1)
    found: dict[Any, list[float]] = {name: [] for name in timed}
    with torch.no_grad():
        for one in timed.values():
            one.walk()  # plans, and remembers
        for _ in range(rounds or ROUNDS):
            for name, one in timed.items():
                found[name].append(one.excess())
    return found


def _spread(name: str, excess: list[float], parts: int) -> dict[str, float]:
    each = [us / parts for us in excess]
    ends = statistics.quantiles(each, n=20)
    return {name: statistics.median(each), "p5": ends[0], "p95": ends[-1]}


def _seconds(f: Callable[[], Any]) -> float:
    """Of this thread on a processor: what others do there meanwhile does not count."""
    begun = time.thread_time()
    f()
    return time.thread_time() - begun


def bare_calls(net: Small, count: int) -> Callable[[], None]:
    """The network alone, as often as a walk calls it."""
    x, told = torch.randn(*SHAPE[:-1], net.linear.in_features), torch.zeros(1)

    def run() -> None:
        for _ in range(count):
            net(x, told)

    return run


def _timed(line: str) -> Timed:
    """A solver's walk; what is for phase bridges walks one."""
    solver = made(line)
    if isinstance(solver, LinearMultistep):
        bridge, net = kedge.paths.PhaseBridge(), Small(2 * SHAPE[-1])
        denoiser, x = Accelerating(net, bridge), bridge.prior({"x": SHAPE, "v": SHAPE}, seeds=0)
    else:
        path, net = kedge.paths.VariancePreserving(), Small()
        denoiser, x = kedge.Denoiser(net, path, "eps"), path.prior(SHAPE, seeds=0)
    walk = _kedge_walk(denoiser, solver, x)
    asked: list[None] = []
    counting = net.register_forward_hook(lambda *_: asked.append(None))
    walk()
    counting.remove()
    return Timed(walk, bare_calls(net, len(asked)), len(asked))


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
    return {
        name: _kedge_walk(denoiser, solver, denoiser.path.prior(SHAPE)) for name, (denoiser, solver) in cases.items()
    }


def _kedge_walk(denoiser: Any, solver: Any, x: Any) -> Callable[[], Any]:
    grid = kedge.grids.LogSNR(STEPS)
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
