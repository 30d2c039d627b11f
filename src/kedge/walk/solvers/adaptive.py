"""Steps whose length follows from their error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from kedge.denoise import Estimate, Estimator
from kedge.elementary import Level
from kedge.kernels import Point
from kedge.paths.gaussian import GaussianPath, scaled
from kedge.tree import Tree, first_leaf, leaves, tree_map
from kedge.walk.solvers.dpm_solver import Staged, blend, inner_noises, staged
from kedge.walk.solvers.exponential import ends, half_log_snr
from kedge.walk.solvers.noise_steps import noise_step
from kedge.walk.state import State, Step


@dataclass(frozen=True)
class Adaptive:
    """DPM-Solver with steps as long as a tolerance allows (Lu et al., "DPM-Solver", NeurIPS 2022,
    appendix C): each step of the grid is made in as many as that takes. A trial makes the steps x_l and x_h of two
    orders from the same evaluations, 1 and 2 ("12") or 2 and 3 ("23"); with

        E = |(x_h - x_l) / max(atol, rtol max(|x_l|, |x'_l|))| / sqrt(dim),     x'_l that of the step before

    x_h is taken where E <= 1, and the next h, a length in half the log-SNR, is `safety h E^(-1 / order)`.

    Every sample has steps of its own, so that it ends the same in any batch; a batch is done with the slowest of them.
    E is that of x / sqrt(alpha^2 + sigma^2), which is x on the paper's path: then all paths take the same steps. As
    levels differ between samples, the denoiser must take one for each. Give it two levels and clean, `LogSNR(2)`: a
    step to clean is one evaluation. The estimate's `extra["evaluations"]` says what a step has cost.

    Args:
        order: of x_h, 2 or 3, and the evaluations of a trial.
        rtol: the relative tolerance.
        atol: the absolute one: the paper's is two colours of 256.
        first: the first h that is tried.
        safety: theta of the paper.
        most: evaluations in a step of the grid; more are an error.
    """

    order: Literal[2, 3] = 3
    rtol: float = 0.05
    atol: float = 0.0078
    first: float = 0.05
    safety: float = 0.9
    most: int = 1000
    density: Literal["none"] = field(default="none", init=False, repr=False)

    def __post_init__(self) -> None:
        if self.order not in (2, 3):
            raise ValueError(f"Adaptive: the order is 2 or 3, not {self.order}")
        if not (self.rtol >= 0 and self.atol > 0 and self.first > 0 and 0 < self.safety < 1):
            raise ValueError(f"{self}: tolerances and the first length are positive, and safety is below 1")

    def evaluations(self, steps: int) -> int:
        """At most: how many it takes is seen when it is walked."""
        return (steps - 1) * self.most + 1

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[bool]:
        """Whether a step goes to clean."""
        if any(isinstance(t, Tensor) and t.ndim for t in levels):
            raise ValueError("Adaptive: its levels are its own; entries cannot have others")
        return [ends(s) for _, s in pairwise(levels)]

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: bool) -> Step:
        """As many steps as it takes. `memory` holds the next length of each sample."""
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        if coefficients:
            return Step(Point(estimate.x), {}, estimate)
        x, h, asked = self._walked(denoiser, state, s, estimate)
        return Step(Point(x), {"h": h}, Estimate(estimate.x, {**estimate.extra, "evaluations": asked}))

    def _walked(self, denoiser: Estimator, state: State, s: Level, estimate: Estimate) -> tuple[Tree, Tensor, int]:
        path, like = denoiser.path, first_leaf(state.x)
        start, end = half_log_snr(path, state.t), half_log_snr(path, s)
        if not end > start:
            raise ValueError("Adaptive: it walks from noise to data only")
        ones: Any = torch.ones(like.shape[0], dtype=torch.float64, device=like.device)
        at, x, asked = start * ones, state.x, 0
        h: Any = state.memory.get("h", self.first * ones)
        before = _comparable(path, x, ones * state.t)
        while bool((at < end).any()):
            asked += self.order
            if asked > self.most:
                raise ValueError(f"Adaptive: {self.most} evaluations do not reach the level {float(s):.6g}: {self}")
            going = at < end
            to = torch.where(at + h >= end, end, at + h)
            levels = [torch.where(going & (lam < end), path.time_of(2 * lam), s) for lam in (at, to)]
            lower, higher = self._trial(
                denoiser, replace(state, x=x), *levels, None if asked > self.order else estimate
            )
            small = _comparable(path, lower, levels[1])
            error = self._error(small, _comparable(path, higher, levels[1]), before)
            taken = going & (error <= 1)
            x, before = _where(taken, higher, x), _where(taken, small, before)
            at, was = torch.where(taken, to, at), at
            h = torch.where(going, self.safety * (to - was) * error.clamp(min=1e-12) ** (-1 / self.order), h)
        return x, h, asked

    def _trial(
        self, denoiser: Estimator, state: State, t: Tensor, s: Tensor, estimate: Estimate | None
    ) -> tuple[Any, Any]:
        """x_l and x_h. The first trial has its first estimate from the walk's own level."""
        if estimate is None:
            estimate = denoiser.estimate(state.x, t, state.cond)
        path, r_1 = denoiser.path, 1 / self.order
        higher = staged(path, t, s, self.order)
        noises = inner_noises(denoiser, state, estimate, higher.stages)
        lower = Staged((), noise_step(path, t, s, ())) if self.order == 2 else staged(path, t, s, 2, r_1)
        x_l, x_h = (blend(one.final, state.x, estimate.x, noises) for one in (lower, higher))
        return x_l, x_h

    def _error(self, lower: Tree, higher: Tree, before: Tree) -> Tensor:
        """E of each sample."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for x_l, x_h, x in zip(leaves(lower), leaves(higher), leaves(before), strict=True):
            allowed = (self.rtol * torch.maximum(x_l.abs(), x.abs())).clamp(min=self.atol)
            total = total + ((x_h - x_l) / allowed).double().square().flatten(1).sum(1)
            count += x[0].numel()
        return (total / count).sqrt()


def _comparable(path: GaussianPath, x: Tree, t: Tensor) -> Tree:
    """`x / sqrt(alpha^2 + sigma^2)`."""
    size = (path.alpha(t) ** 2 + path.sigma(t) ** 2).rsqrt()
    return tree_map(lambda leaf: scaled(size, leaf), x)


def _where(taken: Tensor, yes: Tree, no: Tree) -> Tree:
    return tree_map(lambda a, b: torch.where(taken.reshape(-1, *[1] * (a.ndim - 1)), a, b), yes, no)
