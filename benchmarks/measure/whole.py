"""What is won by walking in one piece: step by step, compiled by torch, and as a CUDA graph where there is a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import kedge
from kedge.nets import UNet1D
from kedge.walk import Captured, Compiled, Walk
from kedge.walk.solvers import DPMSolverPP
from measure.walk_overhead import Small

STEPS, STATE = 5, (32, 4)
BATCHES = (1, 64)
SECONDS = 6.0
"""Turns are taken for so long, and 10 of them at least."""
NETS: dict[str, Callable[[], torch.nn.Module]] = {"one layer": Small, "U-Net": lambda: UNet1D(STATE[-1], 32, (1, 2))}
"""The least that a network costs, and what a planner has by default."""


def wholes() -> dict[str, Any]:
    """A row for each network, batch and way: milliseconds (median, 5 and 95 % of turns), the median ratio to step by
    step in the same turn, and how many seconds the first call took.
    """
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    absent = [] if device.type == "cuda" else ["no GPU here: nothing is captured as a CUDA graph"]
    rows = [row for name in NETS for batch in BATCHES for row in _rows(name, batch, device)]
    return {"device": _named(device), "steps": STEPS, "rows": rows, "absent": absent}


def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _rows(net: str, batch: int, device: torch.device) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    path = kedge.paths.Trig(sigma_data=1.0)
    denoiser = kedge.Denoiser(NETS[net]().to(device).eval(), path, "trig")
    walk = Walk(denoiser, DPMSolverPP(2), kedge.grids.Rho(STEPS, 3.0, 0.2, 10.0))
    x, seeds = path.prior((batch, *STATE), seeds=0).to(device), torch.arange(batch, device=device)
    ways: dict[str, Callable[[], Any]] = {"step by step": lambda: walk.run(x, seeds=seeds).x}
    compiled, captured = Compiled(walk, dynamic=False), Captured(walk)
    ways["compiled"] = lambda: compiled(x, None, seeds)
    if device.type == "cuda":
        ways["captured"] = lambda: captured(x, None, seeds)
    ready = {how: _seconds(way, device) for how, way in ways.items()}
    turns: list[dict[str, float]] = []
    begun = time.perf_counter()
    while len(turns) < 10 or time.perf_counter() - begun < SECONDS:
        turns.append({how: _seconds(way, device) for how, way in ways.items()})
    return [{"net": net, "batch": batch, "how": how, "ready_s": ready[how]} | _told(turns, how) for how in ways]


def _told(turns: list[dict[str, float]], how: str) -> dict[str, float]:
    ms = [1000 * turn[how] for turn in turns]
    ends = statistics.quantiles(ms, n=20)
    ratio = statistics.median(turn[how] / turn["step by step"] for turn in turns)
    return {"ms": statistics.median(ms), "p5": ends[0], "p95": ends[-1], "ratio": ratio}


def _seconds(way: Callable[[], Any], device: torch.device) -> float:
    begun = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun
