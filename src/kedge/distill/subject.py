"""What a grid is fitted to: a denoiser, where its walks begin and where they end up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kedge.cond import take_cond
from kedge.denoise import Estimator, as_estimator
from kedge.noise import Noise
from kedge.paths.gaussian import GaussianPath
from kedge.walk import Walk
from kedge.walk.grids import Rho
from kedge.walk.grids.levels import Grid
from kedge.walk.hooks import Pin
from kedge.walk.state import Hook, Solver


@dataclass(frozen=True, eq=False)
class Subject:
    """A denoiser with samples of what it denoises, the condition of each, and what of each is known all along.

    In this room a state is `y = x_t / alpha_t = x + r z` at the noise scale r, on which path the denoiser may be; the
    probability flow is `dy / dr = z_hat`, and a step of DDIM is one of Euler's in it.

    Args:
        denoiser: as it will be walked, with its guides.
        x: `[B, *event]`: data, or samples of long walks.
        low: the cleanest noise scale that a grid may stop at before the clean end.
        high: the noise scale at which walks begin.
        cond: the condition of each sample.
        known: True where an entry is given; broadcasts to x. It is held at its value, and counts in no error.
        hooks: of the walks, beside the pins.
        temperature: of the noise that walks begin with.
        seed: of all noise.
    """

    denoiser: Any
    x: Tensor
    low: float
    high: float
    cond: Any = None
    known: Tensor | None = None
    hooks: Sequence[Hook] = ()
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        end = self.path.noise_scale(self.path.t_max) * (1 + 1e-9)
        if not 0 < self.low < self.high <= end:
            raise ValueError(f"Subject: 0 < low < high <= {end:.4g} are noise scales, not {self.low} and {self.high}")

    @property
    def estimator(self) -> Estimator:
        """The denoiser, as a walk asks it."""
        return as_estimator(self.denoiser)

    @property
    def path(self) -> GaussianPath:
        """The denoiser's."""
        return self.estimator.path

    @property
    def free(self) -> Tensor:
        """1 where an entry is not known, else 0, for each sample."""
        one = torch.ones_like(self.x)
        return one if self.known is None else torch.where(self.known, 0.0, one)

    def take(self, index: Tensor) -> Subject:
        """Some of the samples."""
        known = self.known
        if known is not None and known.ndim == self.x.ndim and len(known) == len(self.x):
            known = known[index]
        return replace(self, x=self.x[index], cond=take_cond(self.cond, index), known=known)

    def noise(self, step: int = -1) -> Tensor:
        """A standard normal for each entry of each sample."""
        return Noise.of(self.seed, len(self.x), self.x.device).normal(tuple(self.x.shape), step, dtype=self.x.dtype)

    def start(self) -> Tensor:
        """Where a walk of each sample begins: pure noise."""
        return self.spread * self.noise()

    @property
    def spread(self) -> float:
        """The standard deviation of the noise that walks begin with."""
        return self.temperature * self.path.sigma(self.path.time_at(self.high))

    def walk(self, solver: Solver, grid: Grid) -> Walk:
        """From noise, with what is known held."""
        pins = [] if self.known is None else [Pin(self.known, torch.where(self.known, self.x, 0.0))]
        return Walk(self.denoiser, solver, grid, [*self.hooks, *pins])

    @torch.no_grad()
    def walked(self, solver: Solver, grid: Grid, start: Tensor | None = None) -> Tensor:
        """Where the walks end."""
        x = self.walk(solver, grid).run(self.start() if start is None else start, self.cond, seeds=self.seed).x
        assert isinstance(x, Tensor)
        return x

    def rms(self, x: Tensor, y: Tensor) -> Tensor:
        """The root of the mean square of a difference over all entries that are free."""
        free = self.free
        return ((x - y).square() * free).sum().div(free.sum()).sqrt()

    def fine(self, n: int, rho: float = 7.0) -> list[float]:
        """n + 1 noise scales from `high` to `low`, as EDM spaces them: where grids are looked for."""
        high, low = self.high ** (1 / rho), self.low ** (1 / rho)
        inner = [(high + i / n * (low - high)) ** rho for i in range(1, n)]
        return [self.high, *inner, self.low]

    def teacher(self, n: int = 100) -> Grid:
        """A grid of so many steps, as fine as a teacher's."""
        return Rho(n, 7.0, self.low, self.high)


def endpoint_error(subject: Subject, solver: Solver, grid: Grid, reference: Tensor) -> float:
    """How far the walks of a grid end from where they should, root mean square over the free entries."""
    return float(subject.rms(subject.walked(solver, grid), reference))


def log_linear(scales: Sequence[float], n: int) -> tuple[float, ...]:
    """n noise scales on the polygon through the logarithms of these, ends kept: a grid of another number of steps."""
    if n < 2 or len(scales) < 2:
        raise ValueError(f"log_linear: from two scales or more to two or more, not {len(scales)} to {n}")
    found = []
    for i in range(n):
        place = i / (n - 1) * (len(scales) - 1)
        k = min(int(place), len(scales) - 2)
        share = place - k
        found.append(math.exp((1 - share) * math.log(scales[k]) + share * math.log(scales[k + 1])))
    return (scales[0], *found[1:-1], scales[-1])


def spread(x: Tensor) -> Float[Tensor, "b d"]:
    """Samples about their mean, flat, in float64."""
    flat = x.flatten(1).double()
    return flat - flat.mean(0)
