"""DPM-Solver: exponential integrators of the noise, one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from kedge import elementary as el
from kedge.denoise import Estimate, Estimator
from kedge.elementary import Level
from kedge.kernels import Point
from kedge.paths.gaussian import GaussianPath, affine, combine
from kedge.tree import Tree
from kedge.walk.solvers.exponential import ends, half_log_snr, moments, part_way
from kedge.walk.solvers.noise_steps import idle, noise_step, to_noise
from kedge.walk.state import State, Step


class Stage(NamedTuple):
    """A point inside a step at which the network is asked."""

    t: Any
    ks: tuple[Any, ...]
    """Coefficients of x_t, x_hat and the noise at the stages before."""
    noise: tuple[Any, Any]
    """`(p, q)` of the noise there."""


class Staged(NamedTuple):
    """A step: its inner points, and the coefficients of x_t, x_hat and their noise."""

    stages: tuple[Stage, ...]
    final: tuple[Any, ...]


@dataclass(frozen=True)
class DPMSolver:
    """The Taylor expansion of the noise in lambda, half the log-SNR, integrated exactly against `e^-lambda`, with
    derivatives from inner points of the step (Lu et al., "DPM-Solver", NeurIPS 2022, eq. 3.7, algorithms 1 and 2). With
    h the step in lambda, r_1 = 1/2 in order 2, r_1 = 1/3 and r_2 = 2/3 in order 3, and D_k what the noise at the k-th
    inner point is more than that at x_t:

        1:  x_s = alpha_s / alpha_t x_t - sigma_s (e^h - 1) z_0
        2:  ... - sigma_s / (2 r_1) (e^h - 1) D_1
        3:  ... - sigma_s / r_2 ((e^h - 1) / h - 1) D_2

    `DPMSolverPP` expands the clean estimate instead, and is the one to use with guidance.

    Args:
        order: of every step, as many evaluations as it says; order 1 is DDIM. A tuple gives each step its own.

    The last step, to clean, takes one evaluation whatever its order: it returns x_hat.
    """

    order: int | tuple[int, ...] = 3
    density: Literal["none"] = field(default="none", init=False, repr=False)

    def __post_init__(self) -> None:
        orders = self.order if isinstance(self.order, tuple) else (self.order,)
        if not orders or any(order not in (1, 2, 3) for order in orders):
            raise ValueError(f"DPM-Solver has order 1, 2 or 3, not {self.order}")

    @classmethod
    def fast(cls, evaluations: int, clean: bool = True) -> DPMSolver:
        """As many steps of order 3 as so many evaluations allow, and what is left in one or two of lower order (the
        paper's DPM-Solver-fast). `len(solver.order)` is how many steps it makes: `LogSNR` of that.

        Args:
            evaluations: of the network, in the whole walk.
            clean: whether the last step goes to clean: it is one of order 1 then.
        """
        least = 2 if clean else 1
        if evaluations < least:
            raise ValueError(f"DPM-Solver-fast needs {least} evaluations or more, not {evaluations}")
        threes, left = divmod(evaluations, 3)
        orders = {0: (*[3] * (threes - 1), 2, 1), 1: (*[3] * threes, 1), 2: (*[3] * threes, 2)}[left]
        if clean and left == 2:
            orders = (*orders[:-1], 1, 1)
        return cls(orders)

    def evaluations(self, steps: int) -> int:
        """The orders' sum, with one for the last step."""
        return sum(self._orders(steps)[:-1]) + 1

    def _orders(self, steps: int) -> tuple[int, ...]:
        if not isinstance(self.order, tuple):
            return (self.order,) * steps
        if len(self.order) != steps:
            raise ValueError(
                f"{self} makes {len(self.order)} steps, and the grid has {steps}: LogSNR({len(self.order)})"
            )
        return self.order

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[Staged]:
        """The coefficients of each step."""
        orders = self._orders(len(levels) - 1)
        return [staged(path, t, s, n) for t, s, n in zip(levels, levels[1:], orders, strict=False)]

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: Staged) -> Step:
        """One step."""
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        noises = inner_noises(denoiser, state, estimate, coefficients.stages)
        return Step(Point(blend(coefficients.final, state.x, estimate.x, noises)), {}, estimate)


def staged(path: GaussianPath, t: Level, s: Level, order: int, r_1: float | None = None) -> Staged:
    """The step from t to s, its first inner point a share r_1 of the way."""
    if order == 1 or ends(s):
        return Staged((), noise_step(path, t, s, ()))
    first = part_way(path, t, s, r_1 or (1 / 2 if order == 2 else 1 / 3))
    stage = Stage(first, noise_step(path, t, first, ()), to_noise(path, first))
    if order == 2:
        return Staged((stage,), noise_step(path, t, s, (_rise(path, t, s, 0) / (2 * (r_1 or 1 / 2)),)))
    second = part_way(path, t, s, 2 / 3)
    # r_2 / r_1 = 2
    inner = noise_step(path, t, second, (2 * _rise(path, t, second, 1),))
    stages = stage, Stage(second, inner, to_noise(path, second))
    return Staged(stages, noise_step(path, t, s, (0.0, 1.5 * _rise(path, t, s, 1))))


def inner_noises(denoiser: Estimator, state: State, estimate: Estimate, stages: Sequence[Stage]) -> list[Tree]:
    """The noise at each stage."""
    noises: list[Tree] = []
    for stage in stages:
        x = blend(stage.ks, state.x, estimate.x, noises)
        p, q = stage.noise
        noises.append(affine(p, x, q, denoiser.estimate(x, stage.t, state.cond).x))
    return noises


def blend(ks: Sequence[Any], x: Tree, x_hat: Tree, noises: Sequence[Tree]) -> Any:
    """`k_0 x_t + k_1 x_hat + k_2 z_1 + ...`."""
    return combine((ks[0], x), (ks[1], x_hat), *zip(ks[2:], noises, strict=False))


def _rise(path: GaussianPath, t: Level, s: Level, m: int) -> Any:
    """`-sigma_s h int_0^1 e^{h (1 - r)} r^m dr`: of 0 `-sigma_s (e^h - 1)`, of 1 `-sigma_s ((e^h - 1) / h - 1)`."""
    h = el.where(idle(t, s), 1.0, half_log_snr(path, s) - half_log_snr(path, t))
    return -path.sigma(s) * h * moments(-h, m + 1)[m]
