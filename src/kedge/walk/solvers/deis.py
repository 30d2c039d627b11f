"""DEIS: extrapolation of the noise over time or over log-SNR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from kedge import elementary as el
from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath
from kedge.walk.solvers.adams_bashforth import Extrapolation, Start, extrapolated, extrapolations, started
from kedge.walk.solvers.exponential import half_log_snr, moments, part_way
from kedge.walk.state import State, Step

Over = Literal["time", "log_snr"]

_NODES, _WEIGHTS = (tuple(found.tolist()) for found in np.polynomial.legendre.leggauss(16))


@dataclass(frozen=True)
class DEIS:
    """The polynomial through the latest `order` estimates of the noise, integrated over the step against the noise
    scale: with `rho = sigma / alpha`,

        x_s = alpha_s / alpha_t x_t + alpha_s sum_k z_k int_{rho_t}^{rho_s} l_k d rho

    Zhang and Chen, "Fast sampling of diffusion models with exponential integrator", ICLR 2023, eq. 15.

    Args:
        order: 1 is DDIM; the paper's r is one less.
        over: what the polynomial l_k is one of: the path's own `"time"` (the paper's tAB, integrated by Gauss and
            Legendre's rule), or `"log_snr"` (as in diffusers, in closed form), which is the same on every path. Of the
            noise scale itself it is `AdamsBashforth`.
        start: as of `AdamsBashforth`.
    """

    order: Literal[1, 2, 3] = 3
    over: Over = "time"
    start: Start = "lower"
    density: Literal["none"] = field(default="none", init=False, repr=False)

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"DEIS has order 1, 2 or 3, not {self.order}")
        if self.over not in get_args(Over) or self.start not in get_args(Start):
            raise ValueError(f'{self}: over is "time" or "log_snr", and start "lower" or "own"')

    def evaluations(self, steps: int) -> int:
        """One a step, and those of its own start."""
        return steps + started(self.order, self.start, steps)

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[Extrapolation]:
        """The coefficients of each step."""
        if self.over == "time":
            return extrapolations(path, levels, self.order, levels, _by_time, self.start)
        clock = [half_log_snr(path, t) for t in levels]
        return extrapolations(path, levels, self.order, clock, _by_log_snr, self.start)

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: Extrapolation) -> Step:
        """One step. `memory` holds the latest estimates of the noise, newest first."""
        return extrapolated(denoiser, state, coefficients)


def _by_log_snr(path: GaussianPath, t: Level, s: Level, n: int) -> list[Any]:
    """`alpha_s d rho = -sigma_s h e^{h (1 - r)} dr`, with h the step's length in half the log-SNR."""
    h = half_log_snr(path, s) - half_log_snr(path, t)
    return [-path.sigma(s) * h * j for j in moments(-h, n)]


def _by_time(path: GaussianPath, t: Level, s: Level, n: int) -> list[Any]:
    """The same with u the share of the step's time that has gone at r; by quadrature over r, where both are smooth."""
    h = half_log_snr(path, s) - half_log_snr(path, t)
    found: list[Any] = [0.0] * n
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        r = 0.5 * (1 + node)
        u = (part_way(path, t, s, r) - t) / (s - t)
        mass = -0.5 * weight * path.sigma(s) * h * el.exp(h * (1 - r))
        found = [total + mass * u**m for m, total in enumerate(found)]
    return found
