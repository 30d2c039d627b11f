"""Reverse diffusions with as much noise as one likes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from kedge import elementary as el
from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath, affine, transition
from kedge.walk.solvers.exponential import half_log_snr
from kedge.walk.state import Density, State, Step


@dataclass(frozen=True)
class FreeSDE:
    """The diffusion with the path's marginals whose noise is g, exactly where the estimate stays as it is:

        x_s = a x_t + (alpha_s - a alpha_t) x_hat + std z
        a = sigma_s / sigma_t e^-H,      std = sigma_s sqrt(1 - e^-2H),      H = int g^2 / (2 sigma^2)

    `noise` is `g^2 / g_F^2`, where `g_F^2 = 2 sigma^2 dlambda/dt` is Follmer's choice, so that `H = noise h`: 1 is the
    ancestral sampler, 0 the flow. For an error e of the estimate, `noise = r` makes the law of the walk differ by a
    divergence of `int (1 + r)^2 / (4 r) |e|^2 dSNR / 2`, least at r = 1. `"own"` is the noise that the path's
    interpolant has itself, where it has one (`FromPoint`).

    "Variational optimality of Follmer processes in generative diffusions", 2026.
    """

    noise: float | Literal["own"] = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.noise, str):
            if self.noise != "own":
                raise ValueError(f'noise is a number from 0 on, or "own", not {self.noise!r}')
        elif not 0 <= self.noise < math.inf:
            raise ValueError(f'noise is a number from 0 on, or "own", not {self.noise!r}')

    @property
    def density(self) -> Density:
        """None without noise."""
        return "none" if self.noise == 0 else "step"

    def evaluations(self, steps: int) -> int:
        """One a step."""
        return steps

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[tuple[Any, Any, Any]]:
        """`(a, b, std)` of each step."""
        return [self._coefficients(path, t, s) for t, s in pairwise(levels)]

    def _coefficients(self, path: GaussianPath, t: Level, s: Level) -> tuple[Any, Any, Any]:
        still, ends = s == t, s == 0
        H = self._spent(path, t, s, still)
        sigma_s = path.sigma(s)
        a = el.where(ends, 0.0, el.ratio(sigma_s, path.sigma(t)) * el.exp(-H))
        b = el.where(ends, 1.0, path.alpha(s) - a * path.alpha(t))
        std = el.where(still | ends, 0.0, sigma_s * el.sqrt(el.clip(-el.expm1(-2 * H), 0.0, 1.0)))
        return el.where(still, 1.0, a), el.where(still, 0.0, b), std

    def _spent(self, path: GaussianPath, t: Level, s: Level, still: Any) -> Any:
        """H. A step of no length is put right by the caller; until then any length will do."""
        if self.noise == 0:
            return 0.0
        if self.noise == "own":
            own = getattr(path, "own_noise", None)
            if own is None:
                raise ValueError(f'noise="own" is of a path that has noise of its own, such as FromPoint, not {path}')
            return el.where(still, 1.0, own(t, s))
        return float(self.noise) * el.where(still, 1.0, half_log_snr(path, s) - half_log_snr(path, t))

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: tuple[Any, Any, Any]) -> Step:
        """`a x_t + b x_hat + std z`."""
        a, b, std = coefficients
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        return Step(transition(affine(a, state.x, b, estimate.x), std), {}, estimate)
