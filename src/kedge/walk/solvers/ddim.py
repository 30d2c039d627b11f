"""Implicit sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath, affine, transition
from kedge.walk.state import Density, State, Step


@dataclass(frozen=True)
class DDIM:
    """`x_s = alpha_s x_hat + sqrt(sigma_s^2 - std^2) z_hat + std z`; deterministic at `eta = 0`, ancestral at 1.

    Song, Meng and Ermon, "Denoising diffusion implicit models", ICLR 2021, eq. 12 and 16, for any Gaussian path.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1] (0 deterministic, 1 ancestral), got {self.eta}")

    @property
    def density(self) -> Density:
        """None without noise."""
        return "step" if self.eta > 0 else "none"

    def evaluations(self, steps: int) -> int:
        """One a step."""
        return steps

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[tuple[Any, Any, Any]]:
        """`(a, b, std)` of each step: see `GaussianPath.bridge`."""
        return [path.bridge(t, s, self.eta) for t, s in pairwise(levels)]

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: tuple[Any, Any, Any]) -> Step:
        """`a x_t + b x_hat + std z`."""
        a, b, std = coefficients
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        return Step(transition(affine(a, state.x, b, estimate.x), std), {}, estimate)
