"""The ancestral sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.kernels import Kernel
from kedge.paths.gaussian import GaussianPath
from kedge.tree import Tree
from kedge.walk.state import State, Step

Posterior = Callable[[Tree, Tree], Kernel]


@dataclass(frozen=True)
class DDPM:
    """Draws from the path's own posterior `q(x_s | x_t, x = x_hat)`, whatever the path.

    Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, eq. 6-7.
    """

    density: Literal["step"] = field(default="step", init=False, repr=False)

    def evaluations(self, steps: int) -> int:
        """One a step."""
        return steps

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[Posterior]:
        """The path's posterior of each step."""
        return [path.posterior(t, s) for t, s in pairwise(levels)]

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: Posterior) -> Step:
        """The posterior at the expected clean x."""
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        return Step(coefficients(state.x, estimate.x), {}, estimate)
