"""Heun's method on the probability flow, in the path's own time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor

from kedge import elementary as el
from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.kernels import Point
from kedge.paths.gaussian import GaussianPath, affine, combine
from kedge.walk.solvers.euler import euler_step
from kedge.walk.state import State, Step


@dataclass(frozen=True)
class Heun:
    """An Euler step to s, then the mean of the velocities at both ends. Second order, two evaluations a step but for
    the last: a step to clean is Euler's.

    Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, algorithm 1.
    """

    density: Literal["none"] = field(default="none", init=False, repr=False)

    def evaluations(self, steps: int) -> int:
        """Two a step, one for the last."""
        return 2 * steps - 1

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[tuple[Any, ...]]:
        """Euler's `(a, b)`, the coefficients of x_t, x'_s and x_hat(x'_s), and whether there is anything to correct."""
        return [self._coefficients(path, t, s) for t, s in pairwise(levels)]

    def _coefficients(self, path: GaussianPath, t: Level, s: Level) -> tuple[Any, ...]:
        half, stays = 0.5 * (s - t), (s == 0) | (s == t)
        p, q = path.from_clean("velocity", el.where(stays, t, s))  # not at 0: its derivatives would be infinite
        correction = el.where(stays, 0.0, 0.5), el.where(stays, 1.0, 0.5 + half * p), el.where(stays, 0.0, half * q)
        corrects = not bool(stays.all()) if isinstance(stays, Tensor) else not stays
        return *euler_step(path, t, s), correction, corrects

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: tuple[Any, ...]) -> Step:
        """`x_s = (x_t + x'_s) / 2 + (s - t) / 2 dx'_s/ds`, where x'_s is Euler's."""
        a, b, (c, d, e), corrects = coefficients
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        x = affine(a, state.x, b, estimate.x)
        if corrects:
            there = denoiser.estimate(x, s, state.cond)
            x = combine((c, state.x), (d, x), (e, there.x))
        return Step(Point(x), {}, estimate)
