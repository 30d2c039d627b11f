"""The ancestral sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath
from kedge.walk.state import State, Step


@dataclass(frozen=True)
class DDPM:
    """Draws from the path's own posterior `q(x_s | x_t, x = x_hat)`, whatever the path.

    Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, eq. 6-7.
    """

    density: Literal["step"] = "step"

    def evaluations(self, steps: int) -> int:
        """One a step."""
        return steps

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[None]:
        """Nothing: the path knows its posterior."""
        return [None] * (len(levels) - 1)

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: None) -> Step:
        """The posterior at the expected clean x."""
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        return Step(denoiser.path.down(state.x, estimate.x, state.t, s), {}, estimate)
