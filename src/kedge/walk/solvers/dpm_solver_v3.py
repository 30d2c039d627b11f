"""DPM-Solver-v3: the exponential integrator whose exponents are those of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath
from kedge.walk.solvers.statistics import Statistics
from kedge.walk.solvers.unified import Decided, Decision, Unified
from kedge.walk.state import State, Step


@dataclass(frozen=True)
class DPMSolverV3:
    """Multistep predictor and corrector on what is left of a denoiser when `Statistics` are taken out: see
    `frames._fitted` for the equations. Zheng et al., "DPM-Solver-v3: improved diffusion ODE solver with empirical model
    statistics", NeurIPS 2023.

    With l = 1, s = b = 0 it is the polynomial of x_hat (DPM-Solver++), with l = 0, s = -1, b = 0 that of eps
    (DPM-Solver). Each step is a `Decision` of `Unified`.

    Args:
        statistics: of this denoiser: `kedge.distill.statistics_of`.
        order: 1, 2 or 3: the estimates that a step goes through. The first steps have fewer.
        corrector: moves x by the estimate that was made at the predicted point, at no further evaluation.
        powers: the released code's "pseudo" orders of the predictor, and of a corrector of one order more.
    """

    statistics: Statistics
    order: Literal[1, 2, 3] = 3
    corrector: bool = True
    powers: bool = False
    density: Literal["none"] = "none"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"DPM-Solver-v3 has order 1, 2 or 3, not {self.order}")

    @property
    def unified(self) -> Unified:
        """The same solver, decision by decision."""
        corrector = 0 if not self.corrector else self.order + 1 if self.powers else 1
        step = Decision(self.order, predict="fitted", corrector=corrector, powers=self.powers)
        return Unified((step,), self.statistics)

    def evaluations(self, steps: int) -> int:
        """One a step."""
        return steps

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[Decided]:
        """The coefficients of each step."""
        return self.unified.plan(path, levels)

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: Decided) -> Step:
        """`Unified`'s."""
        return self.unified.step(denoiser, state, s, coefficients)
