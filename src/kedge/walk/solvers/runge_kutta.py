"""Explicit Runge-Kutta methods in the noise scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, get_args

from torch import Tensor

from kedge import elementary as el
from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.kernels import Point
from kedge.paths.gaussian import GaussianPath, combine
from kedge.tree import Tree
from kedge.walk.state import State, Step

Method = Literal["euler", "midpoint", "heun", "heun3", "rk4"]

TABLEAUX: dict[str, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    "euler": (((),), (1.0,)),
    "midpoint": (((), (1 / 2,)), (0.0, 1.0)),
    "heun": (((), (1.0,)), (1 / 2, 1 / 2)),
    "heun3": (((), (1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)),
    "rk4": (((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
}
"""Rows a_i and weights b of each method; `rk4` is Kutta's 3/8 rule."""


@dataclass(frozen=True)
class RungeKutta:
    """With u = x_t / alpha and r the noise scale, the probability flow is `du/dr = eps(u, r)`, without a linear term:

        u_i = u + h sum_j a_ij eps_j,      eps_j = eps(u_j, r + c_j h),      u_s = u + h sum_j b_j eps_j

    with h = r_s - r_t and c_i = sum_j a_ij. The change of variables is that of AdjointDPM (Pan et al., ICLR 2024).
    `euler` is DDIM. A step to clean returns x_hat.

    Args:
        method: `euler`, `midpoint`, `heun`, `heun3` or `rk4`, of order 1, 2, 2, 3 and 4.
    """

    method: Method = "rk4"
    density: Literal["none"] = field(default="none", init=False, repr=False)

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"unknown method={self.method!r}: one of {', '.join(get_args(Method))}")

    @property
    def stages(self) -> int:
        """Evaluations of a step."""
        return len(TABLEAUX[self.method][1])

    def evaluations(self, steps: int) -> int:
        """As many a step as there are stages; the last step, to clean, takes one."""
        return (steps - 1) * self.stages + 1

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[tuple[Any, Any]]:
        """Of each step the inner points, `(time, coefficients)`, and the coefficients of its end: those of x_t and of
        the estimates so far.
        """
        return [self._planned(path, t, s) for t, s in pairwise(levels)]

    def _planned(self, path: GaussianPath, t: Level, s: Level) -> tuple[Any, Any]:
        if bool((s == 0).all()) if isinstance(s, Tensor) else s == 0:
            return (), (0.0, 1.0)
        rows, b = TABLEAUX[self.method]
        r, end, still = path.noise_scale(t), path.noise_scale(s), s == t
        h = end - r
        u = [el.ratio(1.0, path.alpha(t))]  # of x_t, in u
        eps: list[list[Any]] = []  # of x_t and of the estimates, in each eps_j
        stages: list[tuple[Any, tuple[Any, ...]]] = []
        for i, row in enumerate(rows):
            point = _sum(u, h, row, eps)
            scale = r + sum(row) * h
            if i:
                time = el.where(s == 0, t, el.where(still, t, path.time_at(scale)))
                alpha = path.alpha(time)
                stages.append((time, _settled([alpha * c for c in point], still, s == 0)))
            eps.append([el.ratio(c, scale) for c in point] + [0.0] * (i + 1 - len(point) + 1))
            eps[-1][i + 1] = -el.ratio(1.0, scale)
        final = [path.alpha(s) * c for c in _sum(u, h, b, eps)]
        return tuple(stages), _settled(final, still, s == 0)

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: tuple[Any, Any]) -> Step:
        """The stages, and what they add up to."""
        stages, final = coefficients
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        estimates: list[Tree] = [estimate.x]
        for time, (c, *ks) in stages:
            x = combine((c, state.x), *zip(ks, estimates, strict=True))
            estimates.append(denoiser.estimate(x, time, state.cond).x)
        c, *ks = final
        return Step(Point(combine((c, state.x), *zip(ks, estimates, strict=True))), {}, estimate)


def _sum(u: list[Any], h: Any, row: Sequence[float], eps: list[list[Any]]) -> list[Any]:
    """The coefficients of `u + h sum_j row_j eps_j`."""
    width = max([len(u), *(len(one) for one in eps[: len(row)])])
    total = u + [0.0] * (width - len(u))
    for weight, one in zip(row, eps, strict=False):
        total = [have + h * weight * c for have, c in zip(total, one + [0.0] * (width - len(one)), strict=True)]
    return total


def _settled(coefficients: list[Any], still: Any, ends: Any) -> tuple[Any, ...]:
    """x_t itself where a step has no length, the first estimate where it goes to clean."""
    at_rest, at_end = [1.0, *[0.0] * (len(coefficients) - 1)], [0.0, 1.0, *[0.0] * (len(coefficients) - 2)]
    each = zip(coefficients, at_rest, at_end, strict=True)
    return tuple(el.where(still, rest, el.where(ends, end, value)) for value, rest, end in each)
