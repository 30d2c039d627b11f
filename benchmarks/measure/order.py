"""The order of convergence of each solver: its error between two interior levels against the number of evaluations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import kedge
from kedge.paths import GaussianPath
from kedge.walk.grids import Levels
from kedge.walk.solvers import DDIM, DPMSolverPP, Euler, Heun

SCALES = 3.0, 0.1
STEPS = (10, 20, 40, 80, 160)

SOLVERS: dict[str, tuple[Any, int]] = {
    "Euler": (Euler(), 1),
    "Heun": (Heun(), 2),
    "DDIM": (DDIM(), 1),
    "DPM-Solver++(2M)": (DPMSolverPP(2), 2),
    "DPM-Solver++(2S)": (DPMSolverPP(2, multistep=False), 2),
    "DPM-Solver++(3M)": (DPMSolverPP(3), 2),
    "DPM-Solver++(3M), own start": (DPMSolverPP(3, start="own"), 3),
    "DPM-Solver++(3S)": (DPMSolverPP(3, multistep=False), 3),
}
"""Each solver and the order that it should have."""

PATHS: dict[str, GaussianPath] = {
    "variance preserving": kedge.paths.VariancePreserving(),
    "cosine": kedge.paths.Cosine(),
    "variance exploding": kedge.paths.VarianceExploding(),
    "rectified": kedge.paths.Rectified(),
    "trig": kedge.paths.Trig(sigma_data=0.5),
}


def orders() -> list[dict[str, Any]]:
    """Errors and the slope between the two finest grids, solver by solver and path by path."""
    return [measured(*solver, *path) for path in PATHS.items() for solver in SOLVERS.items()]


def measured(name: str, solver: tuple[Any, int], path_name: str, path: GaussianPath) -> dict[str, Any]:
    """One solver on one path."""
    mixture = kedge.exact.GaussianMixture(
        [0.3, 0.7], torch.tensor([[-0.5, 0.2], [0.5, -0.3]], dtype=torch.float64), [0.09, 0.04]
    )
    denoiser, x = mixture.denoiser(path), mixture.marginal(path, path.time_at(SCALES[0])).sample(256, seeds=0)

    def walk(solver: Any, steps: int) -> Tensor:
        return kedge.sample(denoiser, x, grid=levels(path, steps, name), solver=solver)

    exact = walk(DPMSolverPP(3, multistep=False), 8 * STEPS[-1])
    errors = [float((walk(solver[0], steps) - exact).norm() / exact.norm()) for steps in STEPS]
    evaluations = [evaluations_of(solver[0], denoiser, x, levels(path, steps, name)) for steps in STEPS]
    slope = math.log(errors[-2] / errors[-1]) / math.log(STEPS[-1] / STEPS[-2])
    return {
        "solver": name,
        "path": path_name,
        "order": solver[1],
        "slope": slope,
        "steps": list(STEPS),
        "evaluations": evaluations,
        "errors": errors,
    }


def levels(path: GaussianPath, steps: int, solver: str) -> Levels:
    """Uniform in the path's time for those that integrate in it, in log-SNR for the exponential ones."""
    first, last = SCALES
    if solver in ("Euler", "Heun"):
        t, s = path.time_at(first), path.time_at(last)
        return Levels([t + (s - t) * i / steps for i in range(steps + 1)])
    return Levels([path.time_at(first * (last / first) ** (i / steps)) for i in range(steps + 1)])


def evaluations_of(solver: Any, denoiser: Any, x: Tensor, grid: Levels) -> int:
    """Counted, not computed: these walks do not end at the clean level."""
    calls = 0

    def counted(x_t: Tensor, t: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return denoiser(x_t, t)

    counted.path = denoiser.path  # pyright: ignore[reportFunctionMemberAccess]
    kedge.sample(counted, x[:1], grid=grid, solver=solver)
    return calls
