"""SA-Solver: stochastic Adams methods, predictor and corrector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from kedge import elementary as el
from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath, affine, combine, transition
from kedge.tree import Tree
from kedge.walk.solvers.exponential import ends, half_log_snr, spans
from kedge.walk.solvers.interpolation import REACH, SDE_REACH, after, newton
from kedge.walk.solvers.noise_steps import to_noise
from kedge.walk.state import Density, State, Step

ORDERS = 4


@dataclass(frozen=True)
class Band:
    """tau within a band of noise scales (sigma / alpha) at which steps begin, and none outside: noise where it mends,
    and none where it would be left over at the end.
    """

    tau: float | int = 1.0
    low: float | int = 0.05
    high: float | int = 1.0

    def __post_init__(self) -> None:
        if not (self.tau >= 0 and 0 <= self.low <= self.high):
            raise ValueError(f"{self}: tau is 0 or more, and low lies below high")


class Adams(NamedTuple):
    """One step: the weights of the estimates that correct its beginning, where another one is made there, and those
    that predict its end (and else correct its beginning as well), newest first: a tuple for each number of earlier
    estimates that may be at hand.
    """

    corrections: tuple[tuple[Any, ...], ...]
    decay: Any
    predictions: tuple[tuple[Any, ...], ...]
    std: Any
    eps: tuple[Any, Any] | None


class _Integral(NamedTuple):
    """`x_s = decay x_t + scale q int e^{-q (1 - r)} estimate(r) dr + std z`, q the length in the exponent."""

    decay: Any
    scale: Any
    q: Any
    std: Any
    h: Any
    reach: float


@dataclass(frozen=True)
class SASolver:
    """Stochastic Adams methods for the reverse equations of noise tau(t), 0 the flow and 1 the reverse SDE:

        x_s = sigma_s / sigma_t e^{-tau^2 h} x_t + alpha_s q int_0^1 e^{-q (1 - r)} x_hat(r) dr
              + sigma_s sqrt(1 - e^{-2 tau^2 h}) z,      q = (1 + tau^2) h

    with h the step in `lambda = log(alpha / sigma)`. The predictor puts the polynomial through the latest estimates for
    x_hat(r), the corrector the one that the estimate at the end belongs to as well, with the same z; so that it moves
    the predicted x by the difference of both polynomials, which is done where the next step begins. Xue et al.,
    "SA-Solver: stochastic Adams solver for fast sampling of diffusion models", NeurIPS 2023, eq. 8, 14 and 17.

    Args:
        predictor: how many estimates it goes through, 1 to 4.
        corrector: the same, the newest included, 2 to 4; 0 for none. What the walk ends with was predicted.
        tau: a number, or a `Band` of noise scales. It is read where a step begins.
        mode: `"PEC"` keeps the estimate at the predicted point, `"PECE"` makes another one at the corrected point.
        predict: what the polynomial is of: x_hat, or eps (eq. 11, which is worse where tau > 0).
        short: in order 2, q / 2 for the integral of r, as released for few steps: longer by O(h^2).

    A walk starts at lower orders, which holds it to order 3 with a corrector and 2 without. The step to clean returns
    x_hat.
    """

    predictor: int = 3
    corrector: int = 4
    tau: float | int | Band = 1.0
    mode: Literal["PEC", "PECE"] = "PEC"
    predict: Literal["clean", "eps"] = "clean"
    short: bool = False

    def __post_init__(self) -> None:
        if not (1 <= self.predictor <= ORDERS and (self.corrector == 0 or 2 <= self.corrector <= ORDERS)):
            raise ValueError(f"{self}: a predictor of 1 to {ORDERS} estimates, a corrector of 2 to {ORDERS}, or 0")
        if self.mode not in ("PEC", "PECE") or self.predict not in ("clean", "eps"):
            raise ValueError(f'{self}: mode is "PEC" or "PECE", predict "clean" or "eps"')
        if not isinstance(self.tau, Band) and self.tau < 0:
            raise ValueError(f"tau is 0 (the flow) or more (1 is the reverse SDE), not {self.tau}")

    @property
    def density(self) -> Density:
        """None without noise; a mean depends on earlier estimates but in order 1 without corrector."""
        noisy = self.tau.tau if isinstance(self.tau, Band) else self.tau
        return "none" if not noisy else "step" if self._kept == 1 and not self.corrector else "walk"

    @property
    def _kept(self) -> int:
        return max(self.predictor, self.corrector - 1)

    def evaluations(self, steps: int) -> int:
        """One a step; with PECE a second one where there is something to correct: not at the first step or the last."""
        return steps + (max(steps - 2, 0) if self.corrector and self.mode == "PECE" else 0)

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[Adams]:
        """The coefficients of each step."""
        return [self._planned(path, levels, i) for i in range(len(levels) - 1)]

    def _planned(self, path: GaussianPath, levels: Sequence[Level], i: int) -> Adams:
        if ends(levels[i + 1]):
            return Adams((), 0.0, ((1.0,),) * (self._kept + 1), 0.0, None)
        eps = to_noise(path, levels[i]) if self.predict == "eps" else None
        step = self._integral(path, levels[i], levels[i + 1])
        most = min(self._kept, i) if self.corrector else 0
        corrections = tuple(self._correction(path, levels, i, known) for known in range(1, most + 1))
        predictions = tuple(
            self._weights(path, levels, i, step, min(self.predictor, known + 1)) for known in range(self._kept + 1)
        )
        if self.mode == "PEC":
            predictions, corrections = _joined(step.decay, corrections, predictions), ()
        return Adams(corrections, step.decay, predictions, step.std, eps)

    def _tau(self, path: GaussianPath, t: Level) -> Any:
        if not isinstance(self.tau, Band):
            return float(self.tau)
        scale = path.noise_scale(t)
        return el.where((scale >= self.tau.low) & (scale <= self.tau.high), float(self.tau.tau), 0.0)

    def _integral(self, path: GaussianPath, t: Level, s: Level) -> _Integral:
        tau, still, end = self._tau(path, t), s == t, s == 0
        h = el.where(still | end, 1.0, half_log_snr(path, s) - half_log_snr(path, t))
        noise = tau * tau
        if self.predict == "clean":
            decay = el.ratio(path.sigma(s), path.sigma(t)) * el.exp(-noise * h)
            scale, q = path.alpha(s), (1 + noise) * h
        else:
            decay = el.ratio(path.alpha(s), path.alpha(t))
            scale, q = (1 + noise) * path.sigma(s), -h
        std = path.sigma(s) * el.sqrt(el.clip(_spread(noise, h, self.predict == "eps"), 0.0, float("inf")))
        noisy = self.tau.tau if isinstance(self.tau, Band) else self.tau
        return _Integral(
            el.where(still, 1.0, el.where(end, self._end(path, t)[0], decay)),
            el.where(still, 0.0, scale),
            q,
            el.where(still | end, 0.0, std),
            h,
            SDE_REACH if noisy else REACH,
        )

    def _end(self, path: GaussianPath, t: Level) -> tuple[Any, Any]:
        """What a step to clean makes of x_t and of its estimate, for entries that go there while others do not."""
        return (0.0, 1.0) if self.predict == "clean" else path.to_clean("eps", t)

    def _weights(self, path: GaussianPath, levels: Sequence[Level], i: int, step: _Integral, order: int) -> Any:
        """Of the estimates at levels i, i - 1, ... in the step from i."""
        at = [0.0, *(_place(path, levels, i, j, step.h) for j in range(i - 1, max(i - order, -1), -1))]
        found = [
            el.where(levels[i + 1] == 0, 0.0, step.scale * w) for w in newton(at, self._m(step, len(at)), step.reach)
        ]
        end = el.where(levels[i] == 0, 0.0, self._end(path, levels[i])[1])  # what is clean stays
        return el.where(levels[i + 1] == 0, end, found[0]), *found[1:]

    def _correction(self, path: GaussianPath, levels: Sequence[Level], i: int, known: int) -> Any:
        """Of the estimates at levels i, i - 1, ...: the corrector's in the step to i less the predictor's."""
        step = self._integral(path, levels[i - 1], levels[i])
        predicted = self._weights(path, levels, i - 1, step, min(self.predictor, known))
        order = min(self.corrector, known + 1)
        at = [1.0, 0.0, *(_place(path, levels, i - 1, j, step.h) for j in range(i - 2, i - order, -1))]
        corrected = [step.scale * w for w in newton(at, self._m(step, len(at)), step.reach)]
        longest = max(len(corrected), len(predicted) + 1)
        pairs = zip(_padded(corrected, longest), _padded([0.0, *predicted], longest), strict=True)
        stays = (levels[i] == levels[i - 1]) | (levels[i + 1] == 0)  # a last step goes to the estimate as it is
        return tuple(el.where(stays, 0.0, c - p) for c, p in pairs)

    def _m(self, step: _Integral, order: int) -> tuple[Any, ...]:
        m = spans(step.q, order)
        return (m[0], step.q / 2) if self.short and order == 2 else m

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: Adams) -> Step:
        """Corrects x_t by what is known now, then predicts x_s. `memory` holds the latest estimates, newest first."""
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        x, value = state.x, self._value(coefficients, state.x, estimate.x)
        known: list[Tree] = list(state.memory.values())
        if coefficients.corrections and known:
            weights = coefficients.corrections[len(known) - 1]
            x = combine((1.0, x), *zip(weights, [value, *known], strict=False))
            estimate = denoiser.estimate(x, state.t, state.cond)
            value = self._value(coefficients, x, estimate.x)
        known = [value, *known]
        weights = coefficients.predictions[min(len(known), len(coefficients.predictions)) - 1]
        mean = combine((coefficients.decay, x), *zip(weights, known, strict=False))
        memory = {f"estimate_{n}": kept for n, kept in enumerate(known[: self._kept])}
        return Step(transition(mean, coefficients.std), memory, estimate)

    def _value(self, coefficients: Adams, x: Tree, x_hat: Tree) -> Tree:
        if coefficients.eps is None:
            return x_hat
        return affine(coefficients.eps[0], x, coefficients.eps[1], x_hat)


def _joined(decay: Any, corrections: Sequence[Any], predictions: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
    """`decay (x + sum_k c_k m_k) + sum_k b_k m_k` as one sum: its weights `b_k + decay c_k`."""
    corrections = [(), *corrections, *[()] * (len(predictions) - 1 - len(corrections))]
    return tuple(after(decay, cs, bs) for bs, cs in zip(predictions, corrections, strict=True))


def _spread(noise: Level, h: Level, eps: bool) -> Any:
    """`1 - e^{-2 tau^2 h}`, or `tau^2 (e^{2h} - 1)`: the new noise's share of the variance sigma_s^2."""
    return noise * el.expm1(2 * h) if eps else -el.expm1(-2 * noise * h)


def _place(path: GaussianPath, levels: Sequence[Level], i: int, j: int, h: Level) -> Any:
    """Where level j lies in the step from level i, of length h."""
    return (half_log_snr(path, levels[j]) - half_log_snr(path, levels[i])) / h


def _padded(weights: Sequence[Any], n: int) -> list[Any]:
    return [*weights, *[0.0] * (n - len(weights))]
