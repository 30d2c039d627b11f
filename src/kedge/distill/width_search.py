"""Which width of a network each step of a walk needs: searched by evolution, error against multiply-adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kedge.denoise import Estimate, Estimator, Wrapped
from kedge.distill.evolution import Tried, crossed, evolve, worth
from kedge.distill.imitate import scales_of
from kedge.distill.subject import Subject
from kedge.elementary import Level
from kedge.guide import ByWidth, Widths
from kedge.nets import multiply_adds
from kedge.tree import Tree
from kedge.walk.grids.levels import Grid
from kedge.walk.state import Solver

AGAIN = 100
"""How often a child is drawn that has been tried already, before the search takes it that there are no others."""


@dataclass(frozen=True, eq=False)
class WidthTrial:
    """What walks by widths are worth: how far off their samples are, and what they cost.

    subject:  a slimmable denoiser, with samples whose noise walks begin at
    solver:   of the walks
    grid:     of the walks, one level for all samples; its steps are what widths are chosen for
    distance: of the samples, where walks end: their sliced distance from data, say. By default their distance from the
              ends of the whole width's walks from the same noise, root mean square over what is free
    """

    subject: Subject
    solver: Solver
    grid: Grid
    distance: Callable[[Tensor], float] | None = None
    scales: tuple[float, ...] = field(init=False)
    """At which steps begin."""
    networks: ByWidth = field(init=False)
    """As they were when the trial was made."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(scales_of(self.grid, self.subject).tolist()))
        object.__setattr__(self, "networks", ByWidth.of(self.subject.denoiser))

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the width, least first."""
        return tuple(sorted(self.networks.narrow))

    def uniform(self, share: float) -> Widths:
        """The same width at every step."""
        return Widths(self.scales, (share,) * len(self.scales))

    def ends(self, widths: Widths) -> Tensor:
        """Where the walks end."""
        return replace(self.subject, denoiser=self.networks.by(widths)).walked(self.solver, self.grid)

    def error(self, widths: Widths) -> float:
        """How far off the samples are."""
        if self.distance is not None:
            return float(self.distance(self.ends(widths)))
        return float(self.subject.rms(self.ends(widths), self._whole))

    def cost(self, widths: Widths) -> float:
        """Multiply-adds of an evaluation in the mean over the walk, over those of the whole width."""
        spent = [self.multiply_adds[widths.shares[widths.place(scale)]] for scale in self._asked]
        return sum(spent) / len(spent) / self.multiply_adds[1.0]

    def score(self, weight: float) -> Callable[[Widths], float]:
        """`F = error + weight cost`."""
        return lambda widths: self.error(widths) + weight * self.cost(widths)

    @cached_property
    def multiply_adds(self) -> dict[float, int]:
        """Of one evaluation of one sample, width by width."""
        one, found = self.subject.take(torch.arange(1)), dict[float, int]()
        t = self.subject.path.time_at(self.scales[-1])
        for share, denoiser in self.networks.narrow.items():
            cond = denoiser.prepare(one.cond)
            found[share] = multiply_adds(lambda D=denoiser, cond=cond: D.estimate(one.x, t, cond))
        return found

    @cached_property
    def _asked(self) -> list[float]:
        """The noise scales at which a walk asks: more than one a step, for some solvers."""
        asked = list[float]()

        def noted(inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
            asked.append(float(inner.path.noise_scale(t)))
            return inner.estimate(x_t, t, cond)

        one = self.subject.take(torch.arange(1))
        replace(one, denoiser=Wrapped(self.networks, noted)).walked(self.solver, self.grid)
        return asked

    @cached_property
    def _whole(self) -> Tensor:
        return self.ends(self.uniform(1.0))


@dataclass(frozen=True)
class SearchedWidths:
    """The best widths, and all that were tried, in order, with their scores."""

    best: Widths
    tried: tuple[tuple[Widths, float], ...]


def search_widths(
    score: Callable[[Widths], float],
    scales: Sequence[float],
    shares: Sequence[float],
    tries: int = 500,
    *,
    population: int = 50,
    changed: float | None = None,
    seed: int = 0,
) -> SearchedWidths:
    """The widths of the least score that evolution finds. The same width at every step, each in turn, and widths drawn
    at random are tried first; then two of the best so far have a child, one up to a step, the other from there on,
    whose steps change here and there. Nothing is tried twice.

    Yang et al., "Denoising diffusion step-aware models", ICLR 2024; a population of 50, ten generations and one changed
    step a child are their code's.

    Args:
        score: less is better: `WidthTrial(...).score(weight)`, or anything else.
        scales: noise scales at which steps begin, noisiest first.
        shares: of the width, among which a step chooses.
        tries: how often `score` is called, at most.
        population: what is tried at first, parents, and children in a generation.
        changed: the chance of a step to change; by default one over the number of steps.
        seed: of all that is drawn.
    """
    rng, at = np.random.default_rng(seed), tuple(scales)
    chance = 1 / len(at) if changed is None else changed

    def child(parents: list[Widths]) -> Widths:
        one, other = (parents[int(rng.integers(len(parents)))].shares for _ in range(2))
        anew = rng.random(len(at)) < chance
        mixed = crossed(rng, one, other)
        return Widths(at, tuple(_one(rng, shares) if new else was for new, was in zip(anew, mixed, strict=True)))

    def breed(parents: list[Widths], few: int, tried: Tried[Widths]) -> list[Widths]:
        return _fresh(lambda: child(parents), few, [widths for widths, _ in tried])

    uniform = [Widths(at, (float(share),) * len(at)) for share in shares]
    begun = _fresh(lambda: _random(rng, at, shares), max(population - len(uniform), 0), uniform)
    tried = evolve(score, [*uniform, *begun], breed, tries, population)
    return SearchedWidths(min(tried, key=worth)[0], tuple(tried))


def random_widths(scales: Sequence[float], shares: Sequence[float], n: int, *, seed: int = 0) -> list[Widths]:
    """Widths without a choice among them, no two alike; fewer than n where there are fewer."""
    rng = np.random.default_rng(seed)
    return _fresh(lambda: _random(rng, tuple(scales), shares), n, [])


def _fresh(draw: Callable[[], Widths], n: int, known: Sequence[Widths]) -> list[Widths]:
    """n that are drawn, none of them known or drawn before."""
    seen, found, vain = set(known), list[Widths](), 0
    while len(found) < n and vain < AGAIN:
        one = draw()
        vain = vain + 1 if one in seen else 0
        if not vain:
            found.append(one)
            seen.add(one)
    return found


def _random(rng: np.random.Generator, scales: tuple[float, ...], shares: Sequence[float]) -> Widths:
    return Widths(scales, tuple(_one(rng, shares) for _ in scales))


def _one(rng: np.random.Generator, shares: Sequence[float]) -> float:
    return float(shares[int(rng.integers(len(shares)))])
