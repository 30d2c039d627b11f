"""Adams and Bashforth's methods in the estimated noise, over a clock of one's choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

from kedge import elementary as el
from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.kernels import Point
from kedge.paths.gaussian import GaussianPath, affine
from kedge.tree import Tree
from kedge.walk.solvers.dpm_solver import Stage, blend, inner_noises, staged
from kedge.walk.solvers.interpolation import behind, falling
from kedge.walk.solvers.noise_steps import idle, noise_step, to_noise
from kedge.walk.state import State, Step

Moments = Callable[[GaussianPath, Level, Level, int], list[Any]]
"""`alpha_s int z_hat d rho` over the step from t to s for z_hat = 1, u, u^2, ..., u running from 0 to 1 by a clock."""


Start = Literal["lower", "own"]
"""How a multistep walk begins: at lower orders, or by single steps that keep its own."""


class Extrapolation(NamedTuple):
    """One step of a multistep method in the noise."""

    noise: tuple[Any, Any]
    """`(p, q)` of `z_hat = p x_t + q x_hat`."""
    ks: tuple[tuple[Any, ...], ...]
    """Coefficients of x_t, x_hat and the earlier z_hat, newest first: one tuple for each number of them at hand."""
    kept: int
    """How many estimates are remembered."""
    stages: tuple[Stage, ...] = ()
    """Inner points of a step of the own start, whose noise stands in place of the earlier."""


@dataclass(frozen=True)
class AdamsBashforth:
    """The polynomial in the noise scale through the latest `order` estimates of the noise, integrated over the step:

        x_s = alpha_s / alpha_t x_t + alpha_s sum_k z_k int_{rho_t}^{rho_s} l_k(rho) d rho

    On levels that are even in rho its weights are those of the textbook, (55, -59, 37, -9) / 24 for order 4, which
    PNDM and iPNDM use on every grid (Liu et al., ICLR 2022; Zhang and Chen, "DEIS", ICLR 2023, where this is rho-AB).
    Here they follow from the levels.

    Args:
        order: how many estimates a step uses.
        start: how a walk begins, where there are no earlier estimates yet: at `"lower"` orders, as usual and at no
            extra cost, which leaves order 2 overall; or by steps of `DPMSolver`, as many as are wanting, which keep the
            order.
    """

    order: Literal[1, 2, 3, 4] = 4
    start: Start = "lower"
    density: Literal["none"] = field(default="none", init=False, repr=False)

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4) or self.start not in get_args(Start):
            raise ValueError(f'{self}: the order is 1, 2, 3 or 4, and the start "lower" or "own"')

    def evaluations(self, steps: int) -> int:
        """One a step, and those of its own start."""
        return steps + started(self.order, self.start, steps)

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[Extrapolation]:
        """The coefficients of each step."""
        scales = [path.noise_scale(t) for t in levels]
        return extrapolations(path, levels, self.order, scales, _even, self.start)

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: Extrapolation) -> Step:
        """One step. `memory` holds the latest estimates of the noise, newest first."""
        return extrapolated(denoiser, state, coefficients)


def _even(path: GaussianPath, t: Level, s: Level, n: int) -> list[Any]:
    rise = path.alpha(s) * (path.noise_scale(s) - path.noise_scale(t))
    return [rise / (m + 1) for m in range(n)]


def started(order: int, start: Start, steps: int) -> int:
    """The evaluations that a start adds."""
    return min(order - 1, steps - 1) * (min(order, 3) - 1) if start == "own" else 0


def extrapolations(
    path: GaussianPath,
    levels: Sequence[Level],
    order: int,
    clock: Sequence[Level],
    moments: Moments,
    start: Start = "lower",
) -> list[Extrapolation]:
    """The plan of a method whose polynomial is one of what `clock` shows at each level."""
    found: list[Extrapolation] = []
    for i, (t, s) in enumerate(pairwise(levels)):
        if start == "own" and i < order - 1:
            # its error of one step, h^4 of order 3, is what one of order 4 may leave once
            single = staged(path, t, s, min(order, 3))
            found.append(Extrapolation(to_noise(path, t), (single.final,), order - 1, single.stages))
        else:
            found.append(_extrapolation(path, levels, i, order, clock, moments))
    return found


def _extrapolation(
    path: GaussianPath, levels: Sequence[Level], i: int, order: int, clock: Sequence[Level], moments: Moments
) -> Extrapolation:
    t, s = levels[i], levels[i + 1]
    rests = idle(t, s)
    nodes = behind(clock, i, order, rests)
    # where the step rests any other serves until `noise_step` puts it right: its length keeps derivatives finite
    start, end = el.where(rests, path.t_max, t), el.where(rests, path.t_min, s)
    ms = moments(path, start, end, len(nodes)) if len(nodes) > 1 else [0.0]
    ks = [noise_step(path, t, s, falling(nodes[:n], ms)[1:]) for n in range(1, len(nodes) + 1)]
    return Extrapolation(to_noise(path, t), tuple(ks), order - 1)


def extrapolated(denoiser: Estimator, state: State, coefficients: Extrapolation) -> Step:
    """One step from the estimates at hand."""
    (p, q), ks, kept, stages = coefficients
    estimate = denoiser.estimate(state.x, state.t, state.cond)
    earlier = list(state.memory.values())
    used = inner_noises(denoiser, state, estimate, stages) if stages else earlier[: len(ks) - 1]
    x = blend(ks[0] if stages else ks[len(used)], state.x, estimate.x, used)
    latest: list[Tree] = [affine(p, state.x, q, estimate.x), *earlier][:kept] if kept else []
    return Step(Point(x), {f"z_{n}": z for n, z in enumerate(latest)}, estimate)
