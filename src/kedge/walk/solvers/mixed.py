"""A solver whose predictions are mixed with those of the step before, by shares that were fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast, get_args

from kedge import elementary as el
from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.kernels import Point
from kedge.paths.gaussian import GaussianPath, combine
from kedge.tree import Tree
from kedge.walk.state import Solver, State, Step

Predicted = Literal["eps", "clean"]
"""What a step predicts: the noise, or the data."""
KEPT = "predicted"


class Read(NamedTuple):
    """A step from t to s read as `x_s = a x_t + b D`, with D what it predicts; `inverse` is 1 / b, 0 for a step of no
    length.
    """

    a: Any
    b: Any
    inverse: Any

    @classmethod
    def of(cls, path: GaussianPath, t: Level, s: Level, predicted: Predicted) -> Read:
        """With D the noise, `a = alpha_s / alpha_t`, `b = sigma_s - a sigma_t`; with D the data,
        `a = sigma_s / sigma_t`, `b = alpha_s - a alpha_t`: DDIM's step in both.
        """
        ends, still = (path.alpha(t), path.sigma(t)), s == t
        kept, other = ends if predicted == "eps" else ends[::-1]
        now, then = (path.alpha(s), path.sigma(s)) if predicted == "eps" else (path.sigma(s), path.alpha(s))
        a = el.where(still, 1.0, el.ratio(now, kept))
        b = el.where(still, 0.0, then - a * other)
        return cls(a, b, el.where(still, 0.0, el.ratio(1.0, el.where(still, 1.0, b))))

    def prediction(self, x_t: Tree, x_s: Tree) -> Any:
        """D of a step that went from x_t to x_s, whatever solver made it."""
        return combine((self.inverse, x_s), (-self.a * self.inverse, x_t))

    def mixed(self, share: float, x_t: Tree, x_s: Tree, before: Tree | None) -> tuple[Any, Any]:
        """Where the step ends that predicts O in place of D, and D."""
        predicted = self.prediction(x_t, x_s)
        if before is None:
            return x_s, predicted
        return combine((1.0, x_s), (self.b * share, predicted), (-self.b * share, before)), predicted


@dataclass(frozen=True)
class Mixed:
    """Step i of a solver predicts D_i (see `Read`); this one steps by

        O_i = D_i + share_i (D_i - D_{i-1})

    in its place, at no further evaluation. The shares are fitted so that a step does what many small ones do, by
    `kedge.distill.distilled_steps` (Kim, Tang and Yu, "Distilling ODE solvers of diffusion models into smaller steps",
    CVPR 2024). With shares of 0 it is the solver itself; the first step is always the solver's.

    Args:
        solver: a deterministic one.
        shares: one for each step of the grid that they were fitted for; the first counts for nothing.
        predicted: what D is: the noise, as DDIM predicts, or the data, as DPM-Solver++ does.
    """

    solver: Solver
    shares: tuple[float, ...]
    predicted: Predicted = "eps"

    def __post_init__(self) -> None:
        if self.predicted not in get_args(Predicted):
            raise ValueError(f"unknown predicted={self.predicted!r}: one of {', '.join(get_args(Predicted))}")
        if self.solver.density != "none":
            raise ValueError(f"Mixed takes a deterministic solver, not {self.solver}")

    @property
    def density(self) -> Literal["none"]:
        """None."""
        return "none"

    def evaluations(self, steps: int) -> int:
        """The solver's."""
        return self.solver.evaluations(steps)

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[tuple[Any, Read, float]]:
        """The solver's coefficients of each step, how it is read, and its share."""
        theirs = self.solver.plan(path, levels)
        if len(theirs) != len(self.shares):
            raise ValueError(f"Mixed has shares for {len(self.shares)} steps, and the grid has {len(theirs)}")
        read = [Read.of(path, t, s, self.predicted) for t, s in pairwise(levels)]
        return list(zip(theirs, read, self.shares, strict=True))

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: tuple[Any, Read, float]) -> Step:
        """The solver's step, moved by `b share (D_i - D_{i-1})`."""
        inner, read, share = coefficients
        theirs = {name: value for name, value in state.memory.items() if name != KEPT}
        step = self.solver.step(denoiser, replace(state, memory=theirs), s, inner)
        end, predicted = read.mixed(share, state.x, cast(Point, step.kernel).mean, state.memory.get(KEPT))
        return Step(Point(end), {**step.memory, KEPT: predicted}, step.estimate)
