"""One update for all exponential multistep solvers, each step of which is decided by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from kedge import elementary as el
from kedge.denoise import Estimate, Estimator
from kedge.elementary import Level
from kedge.kernels import Point
from kedge.paths.gaussian import GaussianPath, combine
from kedge.tree import Tree, lead, tree_map
from kedge.walk.solvers.exponential import ends
from kedge.walk.solvers.frames import Frame, weighed
from kedge.walk.solvers.interpolation import after
from kedge.walk.solvers.statistics import Statistics
from kedge.walk.state import State, Step

POINTS = 4
Prediction = Literal["clean", "eps", "fitted"]
Slope = Literal["exact", "half", "length"]


@dataclass(frozen=True)
class Decision:
    """How one step is made.

    Args:
        points: how many estimates its polynomial goes through, 1 to 4; fewer where there are not so many yet.
        terms: of the polynomial's powers about the beginning of the step, how many count: a Taylor expansion whose
            derivatives are told by more points than it needs. None: all.
        predict: what the polynomial is of: x_hat, eps, or what `Statistics` leave of them.
        corrector: how many estimates correct the end of this step, the one made there included; 0 for none, 1 for as
            many as have predicted it.
        slope: what stands for the integral of r where a step has two points: `"exact"`, `"half"` that of 1 (the
            midpoint form of DPM-Solver++; UniPC's `B_2`) or half the step's `"length"` (UniPC's `B_1`).
        relax: the first divided difference counts `1 + relax h`.
        powers: divided differences are taken for derivatives: DPM-Solver-v3's "pseudo" orders.
        back: the step begins at the point so many estimates ago: 1 makes singlestep solvers of pairs of steps.
    """

    points: int = 2
    terms: int | None = None
    predict: Prediction = "clean"
    corrector: int = 0
    slope: Slope = "exact"
    relax: float | int = 0.0
    powers: bool = False
    back: int = 0

    def __post_init__(self) -> None:
        known = self.predict in get_args(Prediction) and self.slope in get_args(Slope)
        if not (known and 1 <= self.points <= POINTS and 0 <= self.corrector <= POINTS and 0 <= self.back < POINTS):
            raise ValueError(f"{self}: points are 1 to {POINTS}, a corrector's 0 to {POINTS}")
        if self.terms is not None and not 1 <= self.terms <= self.points:
            raise ValueError(f"{self}: terms are 1 or more, and no more than points")


class Weighted(NamedTuple):
    """`decay x + sum a_j x_j + sum b_j x_hat_j + constant`: x_j is where an estimate was asked for, newest first."""

    decay: Any
    a: tuple[Any, ...]
    b: tuple[Any, ...]
    constant: Any


class Decided(NamedTuple):
    """A step: what corrects its beginning and predicts its end, for each number of earlier estimates at hand."""

    sums: tuple[Weighted, ...]


@dataclass(frozen=True)
class Unified:
    """The frame of Liu et al., "A unified sampling framework for solver searching of diffusion probabilistic models",
    ICLR 2024: with y(r) what is predicted, seen along a step, and r from 0 to 1,

        x_s = decay x_t + scale sum_k y^(k) / k! int_0^1 weight(r) r^k dr

    whose derivatives are told by earlier estimates. Each step has a `Decision` of its own: the last one goes on for the
    steps that have none. DDIM, DPM-Solver and DPM-Solver++, single- and multistep, exponential Adams-Bashforth, UniPC
    and DPM-Solver-v3 are decisions; all of them see nothing of the path but log-SNRs.

    A correction moves x where the next step begins, by the difference of two polynomials, and costs no evaluation. The
    step to clean returns x_hat.

    Args:
        decisions: of the steps, the first one first.
        statistics: for steps that predict what is `"fitted"`.
        first: what stands for the first estimate, in place of an evaluation: the mean of the data (an analytic first
            step).
    """

    decisions: tuple[Decision, ...] = (Decision(),)
    statistics: Statistics | None = None
    first: float | None = None
    density: Literal["none"] = "none"

    def __post_init__(self) -> None:
        if not self.decisions:
            raise ValueError("Unified: no decisions")
        if self.statistics is None and any(one.predict == "fitted" for one in self.decisions):
            raise ValueError('Unified: predict="fitted" needs statistics; kedge.distill.statistics_of makes them')

    @property
    def _kept(self) -> int:
        # a correction forms again what was predicted, one estimate later
        return max(
            max(one.points - 1 + bool(one.corrector), one.back + bool(one.corrector), one.corrector - 1)
            for one in self.decisions
        )

    def evaluations(self, steps: int) -> int:
        """One a step, but for an analytic first one."""
        return steps - (self.first is not None and steps > 1)

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[Decided]:
        """The coefficients of each step."""
        return [self._planned(path, levels, i) for i in range(len(levels) - 1)]

    def _decision(self, i: int) -> Decision:
        return self.decisions[min(i, len(self.decisions) - 1)]

    def _planned(self, path: GaussianPath, levels: Sequence[Level], i: int) -> Decided:
        if ends(levels[i + 1]):
            return Decided((Weighted(0.0, (), (1.0,), 0.0),) * (self._kept + 1))
        known = range(min(self._kept, i) + 1)
        made = _Making(path, levels, self.statistics)
        corrections = [made.correction(self._decision(i - 1), i, k) if k else None for k in known]
        predictions = [made.prediction(self._decision(i), i, k) for k in known]
        return Decided(tuple(_joined(*both) for both in zip(corrections, predictions, strict=True)))

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: Decided) -> Step:
        """Corrects x_t by what is known now, then predicts x_s. `memory` holds the points that were asked and their
        estimates, newest first.
        """
        estimate = self._estimate(denoiser, state)
        values = list(state.memory.values())
        points, known = values[::2], values[1::2]
        n = min(len(known), len(coefficients.sums) - 1)
        points, known = [state.x, *points], [estimate.x, *known]
        mean = _summed(coefficients.sums[n], state.x, points, known)
        memory: dict[str, Tree] = {}
        for j in range(min(len(known), self._kept)):
            memory |= {f"x_{j}": points[j], f"x_hat_{j}": known[j]}
        return Step(Point(mean), memory, estimate)

    def _estimate(self, denoiser: Estimator, state: State) -> Estimate:
        first = self.first
        if first is None or state.step:
            return denoiser.estimate(state.x, state.t, state.cond)
        return Estimate(tree_map(lambda x: torch.full_like(x, first), state.x))


class _Making(NamedTuple):
    """Coefficients of the steps between some levels."""

    path: GaussianPath
    levels: Sequence[Level]
    statistics: Statistics | None

    def prediction(self, how: Decision, i: int, known: int) -> Weighted:
        """Of the end of the step from level i, where `known` earlier estimates are at hand."""
        back = min(how.back, known)
        others = [j for j in range(i, i - known - 1, -1) if j != i - back]
        return self._through(how, [i - back, *others][: how.points], i + 1, i, back == 0)

    def correction(self, how: Decision, i: int, known: int) -> Weighted | None:
        """What moves x at level i, now that an estimate was made there: its corrected end less its predicted one."""
        predicted = self.prediction(how, i - 1, known - 1)
        points = min(how.points, known) if how.corrector == 1 else min(how.corrector, known + 1)
        if not how.corrector or points < 2:
            return None
        back = min(how.back, known - 1)
        others = [j for j in range(i - 1, i - 1 - known, -1) if j != i - 1 - back]
        corrected = self._through(how, [i - 1 - back, i, *others][:points], i, i, back == 0)
        stays = (self.levels[i] == self.levels[i - 1]) | (self.levels[i] == 0)

        def less(mine: tuple[Any, ...], theirs: tuple[Any, ...]) -> tuple[Any, ...]:
            n = max(len(mine), len(theirs) + 1)
            pairs = zip(_padded(mine, n), _padded((0.0, *theirs), n), strict=True)
            return tuple(el.where(stays, 0.0, c - p) for c, p in pairs)

        constant = el.where(stays, 0.0, corrected.constant - predicted.constant)
        return Weighted(1.0, less(corrected.a, predicted.a), less(corrected.b, predicted.b), constant)

    def _through(self, how: Decision, at: Sequence[int], end: int, newest: int, from_x: bool) -> Weighted:
        """A step from level at[0] to level `end`, through the estimates at levels `at`."""
        t, s = self.levels[at[0]], self.levels[end]
        frame = Frame.of(how.predict, self.path, t, s, self.statistics)
        weights = weighed(
            frame, self._moments(how, frame, len(at)), [self.levels[j] for j in at], how.powers, how.relax
        )
        a, b, constant = [0.0] * (newest + 1), [0.0] * (newest + 1), frame.constant
        for j, weight in zip(at, weights, strict=True):
            of_x, of_x_hat, of_one = frame.value(self.levels[j])
            place = newest - j
            a[place], b[place] = a[place] + weight * of_x, b[place] + weight * of_x_hat
            constant = constant + weight * of_one
        if not from_x:
            a[newest - at[0]] = a[newest - at[0]] + frame.decay
        return _settled(t, s, Weighted(frame.decay if from_x else 0.0, tuple(a), tuple(b), constant))

    def _moments(self, how: Decision, frame: Frame, points: int) -> tuple[Any, ...]:
        m = frame.moments(points)
        if points == 2 and how.slope != "exact":
            m = m[0], (m[0] if how.slope == "half" else frame.length) / 2
        return m if how.terms is None else (*m[: how.terms], *[0.0] * (points - how.terms))


def _settled(t: Level, s: Level, w: Weighted) -> Weighted:
    """Entries that stay where they are, and those that go to clean, where x_hat is returned."""
    if not isinstance(t, Tensor) and not isinstance(s, Tensor):
        return w if t != s else Weighted(1.0, (), (), 0.0)
    still, end = s == t, s == 0

    def settle(value: Any, at_rest: float, at_end: float) -> Any:
        return el.where(still, at_rest, el.where(end, at_end, value))

    b = (settle(w.b[0], 0.0, 1.0), *(settle(value, 0.0, 0.0) for value in w.b[1:]))
    a = tuple(settle(value, 0.0, 0.0) for value in w.a)
    return Weighted(settle(w.decay, 1.0, 0.0), a, b, settle(w.constant, 0.0, 0.0))


def _joined(correction: Weighted | None, prediction: Weighted) -> Weighted:
    """The prediction from where the correction leads, as one sum."""
    if correction is None:
        return prediction
    decay = prediction.decay
    constant = prediction.constant + decay * correction.constant
    a, b = after(decay, correction.a, prediction.a), after(decay, correction.b, prediction.b)
    return Weighted(decay * correction.decay, a, b, constant)


def _padded(weights: Sequence[Any], n: int) -> list[Any]:
    return [*weights, *[0.0] * (n - len(weights))]


def _is_zero(weight: Any) -> bool:
    return not isinstance(weight, Tensor) and weight == 0


def _summed(w: Weighted, x: Tree, points: Sequence[Tree], known: Sequence[Tree]) -> Any:
    terms = [(w.decay, x), *zip(w.a, points, strict=False), *zip(w.b, known, strict=False)]
    total = combine(terms[0], *(term for term in terms[1:] if not _is_zero(term[0])))
    return total if _is_zero(w.constant) else tree_map(lambda y: y + lead(w.constant, y), total)
