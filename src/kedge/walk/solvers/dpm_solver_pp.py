"""DPM-Solver++: exponential integrators in the clean estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

from kedge import elementary as el
from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.kernels import Point
from kedge.paths.gaussian import GaussianPath, combine, transition
from kedge.tree import Tree
from kedge.walk.solvers.exponential import Weights, ends, part_way, weights
from kedge.walk.solvers.interpolation import REACH, SDE_REACH
from kedge.walk.state import Density, State, Step

Form = Literal["midpoint", "taylor"]
"""How a single slope is weighed: by half the weight of 1, or by its own integral."""


class Multistep(NamedTuple):
    """A step that extrapolates from earlier estimates."""

    decay: Any
    std: Any
    ks: tuple[tuple[Any, ...], ...]
    """Coefficients of the latest estimates, newest first: one tuple for each number of them that may be at hand."""


class Singlestep(NamedTuple):
    """A step that makes its own inner estimates: `(time, coefficients of x_t and of the estimates so far)`."""

    stages: tuple[tuple[Any, tuple[Any, ...]], ...]
    final: tuple[Any, ...]


@dataclass(frozen=True)
class DPMSolverPP:
    """DPM-Solver++ of order 1, 2 or 3 (Lu et al., 2022), in `(alpha, sigma)`, hence on every Gaussian path.

    Args:
        order: order 1 is DDIM (with `sde`, the ancestral sampler).
        multistep: extrapolate from the estimates of earlier steps (2M, 3M: one evaluation a step), or make inner ones
            (2S, 3S: as many evaluations as the order).
        sde: solve the reverse SDE rather than the probability flow; multistep only.
        start: how a multistep walk begins, where there are no earlier estimates yet: at `"lower"` orders, as usual and
            at no extra cost, which leaves order 3 at order 2 overall; or by single steps of its `"own"` order.
        form: how order 2 weighs its slope: as the authors' midpoint form, by `w_0 / 2`, or by its integral, `w_1`.

    The last step, to clean, is of first order: it returns x_hat.

    In order 3 the second divided difference is half the second derivative, so that its weight is 2 w_2; the released
    code of 3M (and its copies) has w_2 there and is of order 2.
    """

    order: Literal[1, 2, 3] = 2
    multistep: bool = True
    sde: bool = False
    start: Literal["lower", "own"] = "lower"
    form: Form = "midpoint"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"DPM-Solver++ has order 1, 2 or 3, not {self.order}")
        if self.start not in ("lower", "own"):
            raise ValueError(f'start is "lower" or "own", not {self.start!r}')
        if self.form not in get_args(Form):
            raise ValueError(f'form is "midpoint" or "taylor", not {self.form!r}')
        if self.sde and self.order > 1 and not (self.multistep and self.start == "lower"):
            raise ValueError('the SDE is solved by multistep only: multistep=True, start="lower"')

    @property
    def density(self) -> Density:
        """Of the SDE only; a multistep mean depends on earlier estimates."""
        return "none" if not self.sde else "step" if self.order == 1 else "walk"

    def evaluations(self, steps: int) -> int:
        """One a step if multistep, `order` if not; the last step, to clean, takes one."""
        inner = steps - 1 if not self.multistep else min(self.order - 1, steps - 1) if self.start == "own" else 0
        return steps + inner * (self.order - 1)

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[Multistep | Singlestep]:
        """The coefficients of each step."""
        kappa = 2 if self.sde else 1
        ws = [weights(path, t, s, kappa) for t, s in pairwise(levels)]
        return [self._planned(path, levels, ws, i) for i in range(len(ws))]

    def _planned(
        self, path: GaussianPath, levels: Sequence[Level], ws: Sequence[Weights], i: int
    ) -> Multistep | Singlestep:
        starting = self.start == "own" and i < self.order - 1
        inner = self.order > 1 and (starting or not self.multistep) and not ends(levels[i + 1])
        if inner:
            t, s = levels[i], levels[i + 1]
            return two_stages(path, t, s, ws[i], self.form) if self.order == 2 else three_stages(path, t, s, ws[i])
        ks = [
            _extrapolation(ws, i, n, SDE_REACH if self.sde else REACH, self.form)
            for n in range(1, (self.order if self.multistep else 1) + 1)
        ]
        return Multistep(ws[i].decay, ws[i].std, tuple(ks))

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: Multistep | Singlestep) -> Step:
        """One step. `memory` holds the latest estimates, newest first."""
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        if isinstance(coefficients, Singlestep):
            x = inner_steps(denoiser, state, estimate.x, coefficients)
            return Step(Point(x), self._remember(state.memory, estimate.x), estimate)
        decay, std, ks = coefficients
        known: list[Tree] = [estimate.x, *state.memory.values()][: len(ks)]
        x = combine((decay, state.x), *zip(ks[len(known) - 1], known, strict=True))
        return Step(transition(x, std), self._remember(state.memory, estimate.x), estimate)

    def _remember(self, memory: dict[str, Tree], x_hat: Tree) -> dict[str, Tree]:
        if self.order == 1 or not self.multistep:
            return {}
        kept = [x_hat, *memory.values()][: self.order - 1]
        return {f"x_hat_{n}": value for n, value in enumerate(kept)}


def inner_steps(denoiser: Estimator, state: State, x_hat: Tree, plan: Singlestep) -> Any:
    """x_s, by way of the inner points."""
    estimates = [x_hat]
    for time, (decay, *ks) in plan.stages:
        x = combine((decay, state.x), *zip(ks, estimates, strict=True))
        estimates.append(denoiser.estimate(x, time, state.cond).x)
    decay, *ks = plan.final
    return combine((decay, state.x), *zip(ks, estimates, strict=True))


def _extrapolation(ws: Sequence[Weights], i: int, known: int, reach: float, form: Form) -> tuple[Any, ...]:
    """Coefficients of x_hat at the latest `known` levels in step i, with h_1 and h_2 the lengths of the steps before:

        D_1 = (x_0 - x_1) / h_1,    D_2 = (x_1 - x_2) / h_2
        2M:  w_0 x_0 + w_0 / 2 h D_1, or with w_1 in place of w_0 / 2
        3M:  w_0 x_0 + w_1 h (D_1 + h_1 / (h_1 + h_2) (D_1 - D_2)) + 2 w_2 h^2 / (h_1 + h_2) (D_1 - D_2)

    Where an earlier step was too short to tell a slope (or none at all), the order falls for that entry.
    """
    w = ws[i]
    known = min(known, i + 1)
    if known == 1:
        return (w.w_0,)
    h_1 = ws[i - 1].h
    slope_1 = _slope(h_1, w.h, reach)
    if known == 2:
        k = (0.5 * w.w_0 if form == "midpoint" else w.w_1) * w.h * slope_1
        return w.w_0 + k, -k
    h_2 = ws[i - 2].h
    slope_2 = _slope(h_2, w.h, reach)
    bend = (w.w_1 * w.h * h_1 + 2 * w.w_2 * w.h * w.h) * _inverse(h_1 + h_2)
    curve = el.where((slope_1 == 0) | (slope_2 == 0), 0.0, bend)
    k_1, k_2 = (w.w_1 * w.h + curve) * slope_1, curve * slope_2
    return w.w_0 + k_1, -k_1 - k_2, k_2


def _slope(earlier: Level, h: Level, reach: float) -> Any:
    """`1 / earlier`, and 0 for a step so short beside h that dividing by it would blow up rounding, or noise."""
    return el.where(abs(earlier) * reach <= abs(h), 0.0, _inverse(earlier))


def two_stages(path: GaussianPath, t: Level, s: Level, w: Weights, form: Form = "midpoint") -> Singlestep:
    """2S with its inner point half way: `x_s = decay x_t + w_0 D(u)` (algorithm 1 of the paper, r = 1/2), or with the
    slope's integral, `x_s = decay x_t + w_0 x_0 + 2 w_1 (D(u) - x_0)`.
    """
    half = part_way(path, t, s, 1 / 2)
    u = weights(path, t, half)
    k = el.where(s == 0, 0.0, w.w_0 if form == "midpoint" else 2 * w.w_1)
    return Singlestep(stages=((half, (u.decay, u.w_0)),), final=(w.decay, w.w_0 - k, k))


def three_stages(path: GaussianPath, t: Level, s: Level, w: Weights) -> Singlestep:
    """3S with inner points at r_1 = 1/3 and r_2 = 2/3 (Lu et al., "DPM-Solver", NeurIPS 2022, algorithm 2, in x_hat):

    u_1 = decay x_t + w_0 x_0
    u_2 = decay x_t + w_0 x_0 + r_2 / r_1 w_1 (D(u_1) - x_0)
    x_s = decay x_t + w_0 x_0 + w_1 / r_2 (D(u_2) - x_0)
    """
    third, two_thirds = part_way(path, t, s, 1 / 3), part_way(path, t, s, 2 / 3)
    u, v = weights(path, t, third), weights(path, t, two_thirds)
    k, m = 2 * v.w_1, 1.5 * w.w_1
    stages = (third, (u.decay, u.w_0)), (two_thirds, (v.decay, v.w_0 - k, k))
    return Singlestep(stages, final=(w.decay, w.w_0 - m, 0.0, m))


def _inverse(h: Level) -> Any:
    """`1 / h`, and 0 for 0."""
    return el.where(h == 0, 0.0, el.ratio(1.0, el.where(h == 0, 1.0, h)))
