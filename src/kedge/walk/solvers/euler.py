"""Euler's method on the probability flow, in the path's own time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from kedge import elementary as el
from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.kernels import Point
from kedge.paths.gaussian import GaussianPath, affine
from kedge.walk.state import State, Step


@dataclass(frozen=True)
class Euler:
    """`x_s = x_t + (s - t) dx_t/dt`. First order."""

    density: Literal["none"] = field(default="none", init=False, repr=False)

    def evaluations(self, steps: int) -> int:
        """One a step."""
        return steps

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[tuple[Any, Any]]:
        """`(a, b)` of each step."""
        return [euler_step(path, t, s) for t, s in pairwise(levels)]

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: tuple[Any, Any]) -> Step:
        """`a x_t + b x_hat`."""
        a, b = coefficients
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        return Step(Point(affine(a, state.x, b, estimate.x)), {}, estimate)


def euler_step(path: GaussianPath, t: Level, s: Level) -> tuple[Any, Any]:
    """`(a, b)` of `x_s = a x_t + b x_hat`. A step to clean returns x_hat: most velocities are singular there."""
    p, q = path.from_clean("velocity", t)
    moves, ends = s != t, s == 0
    a = el.where(ends, 0.0, 1 + (s - t) * p)
    b = el.where(ends, 1.0, (s - t) * q)
    return el.where(moves, a, 1.0), el.where(moves, b, 0.0)
