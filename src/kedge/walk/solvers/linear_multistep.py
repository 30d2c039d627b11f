"""The exponential integrator on paths of matrices, with the line through the last two estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.kernels import Point
from kedge.matrix import Matrix
from kedge.paths.gaussian import GaussianPath, combine
from kedge.paths.linear import LinearPath
from kedge.walk.state import State, Step


@dataclass(frozen=True)
class LinearMultistep:
    """The flow `dx/dt = P x + Q x_hat(t)` of a `LinearPath`, solved exactly for an estimate that is a line in t:

        x_s = A x_t + (M_s - A M_t) x_0 + N (x_0 - x_1) / (t - t_1)
        A' = P A,      N = int_t^s A_s A_u^-1 Q_u (u - t) du

    x_0 is this step's estimate and x_1 that of the step before, at t_1. Second order, one evaluation a step. The first
    step and the last, to clean, are of first order. Zhang and Chen's Adams-Bashforth of order 2 ("Fast sampling of
    diffusion models with exponential integrator", ICLR 2023, eq. 14), as phase bridges are sampled with it.
    """

    density: Literal["none"] = field(default="none", init=False, repr=False)

    def evaluations(self, steps: int) -> int:
        """One a step."""
        return steps

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[tuple[Any, Any, Any]]:
        """`(A, M_s - A M_t, N / (t - t_1))` of each step."""
        if not isinstance(path, LinearPath):
            raise TypeError(f"LinearMultistep walks paths of matrices; on {path} take DPMSolverPP(order=2)")
        plans: list[tuple[Any, Any, Any]] = []
        before: float | None = None
        for t, s in pairwise(levels):
            a, b, _ = path.bridge(t, s, eta=0.0)
            t, s = float(t), float(s)
            slope = None
            if before is not None and before != t and s not in (0, t):
                slope = Matrix(path.sloped(t, s) / (t - before))
            plans.append((a, b, slope))
            before = t
        return plans

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: tuple[Any, Any, Any]) -> Step:
        """One step; `memory` holds the estimate before."""
        a, b, slope = coefficients
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        terms: list[tuple[Any, Any]] = [(a, state.x), (b, estimate.x)]
        if slope is not None and "x_hat" in state.memory:
            terms += [(slope, estimate.x), (slope * -1.0, state.memory["x_hat"])]
        return Step(Point(combine(*terms)), {"x_hat": estimate.x}, estimate)
