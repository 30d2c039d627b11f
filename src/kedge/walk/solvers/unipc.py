"""UniPC: a predictor, and a corrector that costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from kedge import elementary as el
from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.kernels import Point
from kedge.paths.gaussian import GaussianPath, combine
from kedge.tree import Tree
from kedge.walk.solvers.adams_bashforth import Start, started
from kedge.walk.solvers.dpm_solver_pp import Singlestep, inner_steps, three_stages, two_stages
from kedge.walk.solvers.exponential import ends, half_log_snr, moments, weights
from kedge.walk.solvers.interpolation import after, behind, falling
from kedge.walk.solvers.noise_steps import idle
from kedge.walk.state import State, Step


class Corrected(NamedTuple):
    """One step: the last one's correction and the prediction from there, as one sum."""

    ks: tuple[tuple[Any, ...], ...]
    """Coefficients of x_t, the latest estimate and those before it: a tuple for each number of those before it."""
    single: Singlestep | None = None
    """A step of the own start, in its place."""


@dataclass(frozen=True)
class UniPC:
    """A step of the exponential integrator through the latest `order` estimates; once the network has been asked at its
    end, which the next step does anyway, it is made again through this estimate as well. So the order rises by one at
    no cost (Zhao et al., "UniPC", NeurIPS 2023, in x_hat).

    With lambda half the log-SNR, h its step, u from 0 to 1 along it, and l_k Lagrange's polynomials at the estimates'
    u_k:

        x_s = sigma_s / sigma_t x_t + alpha_s h sum_k x_k int_0^1 e^{-h (1 - u)} l_k(u) du

    The paper's B(h) is in two places, where there is a single slope to weigh, which it weighs by `B(h) / 2` in place of
    the integral: the predictor of order 2 and the corrector of order 1. It cancels everywhere else.

    The correction is added to the state as hooks have left it. The end of a walk above clean is not corrected, for
    the network is not asked there.

    Args:
        order: of the predictor.
        b: B(h) is h (`"bh1"`) or `1 - e^{-h}` (`"bh2"`).
        corrector: without it, the predictor alone (UniP).
        start: how a walk begins, where there are no earlier estimates yet: at `"lower"` orders, as usual and at no
            extra cost, which leaves order 3 overall (2 without the corrector); or by single steps of DPM-Solver++ of
            its `"own"` order, which keep it.
    """

    order: Literal[1, 2, 3] = 2
    b: Literal["bh1", "bh2"] = "bh2"
    corrector: bool = True
    start: Start = "lower"
    density: Literal["none"] = field(default="none", init=False, repr=False)

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"UniPC has order 1, 2 or 3, not {self.order}")
        if self.b not in ("bh1", "bh2") or self.start not in get_args(Start):
            raise ValueError(f'{self}: b is "bh1" or "bh2", and start "lower" or "own"')

    def evaluations(self, steps: int) -> int:
        """One a step, and those of its own start."""
        return steps + started(self.order, self.start, steps)

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[Corrected]:
        """The coefficients of each step."""
        lambdas = [half_log_snr(path, t) for t in levels]
        singles = [self._single(path, levels, i) for i in range(len(levels) - 1)]
        steps = [self._planned(path, levels, lambdas, i) for i in range(len(levels) - 1)]
        # a step of the own start is of its order as it is
        corrections = [(), *(() if single else ks for single, (_, ks) in zip(singles, steps, strict=True))]
        rows = zip(corrections if self.corrector else [()] * len(steps), steps, singles, strict=False)
        return [Corrected(_joined(ks, predictions), single) for ks, (predictions, _), single in rows]

    def _single(self, path: GaussianPath, levels: Sequence[Level], i: int) -> Singlestep | None:
        t, s = levels[i], levels[i + 1]
        if self.start == "lower" or i >= self.order - 1 or ends(s):
            return None
        return (two_stages if self.order == 2 else three_stages)(path, t, s, weights(path, t, s))

    def _planned(
        self, path: GaussianPath, levels: Sequence[Level], lambdas: Sequence[Level], i: int
    ) -> tuple[tuple[tuple[Any, ...], ...], tuple[tuple[Any, ...], ...]]:
        """Of step i, the predictions and, with the estimate at its end, what is to be added to each of them."""
        t, s = levels[i], levels[i + 1]
        rests = idle(t, s)
        a, b, _ = path.bridge(t, s, eta=0.0)
        h = el.where(rests, 1.0, lambdas[i + 1] - lambdas[i])
        nodes = behind(lambdas, i, self.order, rests)
        ms = [path.alpha(s) * h * j for j in moments(h, len(nodes) + 1)]
        halved = [ms[0], 0.5 * path.alpha(s) * (h if self.b == "bh1" else -el.expm1(-h))]
        predictions, corrections = [], []
        for n in range(1, len(nodes) + 1):
            _, *slopes = falling(nodes[:n], ms, besides=(2, halved))
            new, _, *better = falling(nodes[:n], ms, first=(1.0,), besides=(1, halved))
            changes = [_unless(rests, k) for k in (new, *(k - was for k, was in zip(better, slopes, strict=True)))]
            slopes = [_unless(rests, k) for k in slopes]
            predictions.append((a, b - sum(slopes), *slopes))
            corrections.append((changes[0], -sum(changes), *changes[1:]))
        return tuple(predictions), tuple(corrections)

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: Corrected) -> Step:
        """The last step's correction, then this one's prediction. `memory` holds the latest estimates, newest first."""
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        earlier: list[Tree] = list(state.memory.values())
        known: list[Tree] = [estimate.x, *earlier][: self.order]
        if coefficients.single:
            x = inner_steps(denoiser, state, estimate.x, coefficients.single)
        else:
            ks = coefficients.ks[min(len(earlier), len(coefficients.ks) - 1)]
            x = combine(*zip(ks, [state.x, estimate.x, *earlier], strict=False))
        return Step(Point(x), {f"x_hat_{n}": value for n, value in enumerate(known)}, estimate)


def _joined(
    corrections: Sequence[tuple[Any, ...]], predictions: Sequence[tuple[Any, ...]]
) -> tuple[tuple[Any, ...], ...]:
    """A prediction `a x + sum_k b_k x_k` from `x + sum_k c_k x_k`: `a x + sum_k (b_k + a c_k) x_k`."""
    found = [predictions[0]]
    for n in range(1, max(len(predictions), len(corrections) + 1)):
        a, *bs = predictions[min(n, len(predictions) - 1)]
        cs = corrections[n - 1] if n <= len(corrections) else ()
        found.append((a, *after(a, cs, bs)))
    return tuple(found)


def _unless(rests: Any, k: Any) -> Any:
    return el.where(rests, 0.0, k)
