"""Trajectories of one model have one shape, and a few of them tell where a grid has to stop."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch

from kedge import solvers
from kedge.distill import Subject, Teachings, endpoint_error, least, teacher_ends
from kedge.exact import GaussianMixture
from kedge.paths import GaussianPath, Trig, VarianceExploding, VariancePreserving
from kedge.walk.grids import Fitted, Rho
from systems.fitted import PATH, f64

pytestmark = pytest.mark.system

LOW, HIGH = 0.02, 80.0


@cache
def law() -> GaussianMixture:
    """Forty narrow modes in 32 dimensions: nearly a finite data set."""
    means = torch.randn(40, 32, dtype=f64, generator=torch.Generator().manual_seed(0))
    return GaussianMixture([1.0] * 40, means, [0.01] * 40)


@cache
def subject(seed: int, path: GaussianPath = PATH, high: float = HIGH) -> Subject:
    return Subject(law().denoiser(path), law().sample(100, seeds=seed), LOW, high, seed=seed)


@cache
def teachings() -> Teachings:
    return Teachings.of(subject(1))


# The search


@pytest.mark.parametrize("later", [1.0, 1.15])
def test_the_program_finds_what_trying_all_finds(later: float) -> None:
    """Twelve levels, four jumps; what follows a jump counts `later` times as much."""
    ways = [(0, *inner, 11) for inner in itertools.combinations(range(1, 11), 3)]

    def sum_of(cost: list[list[float]], places: Any) -> float:
        return sum(later**k * cost[i][j] for k, (i, j) in enumerate(itertools.pairwise(places)))

    for seed in range(20):
        cost = torch.rand(12, 12, dtype=f64, generator=torch.Generator().manual_seed(seed))
        costs = cost.tolist()
        assert tuple(least(cost, 4, later)) == min(ways, key=lambda places, costs=costs: sum_of(costs, places))
    assert least(cost, 1) == [0, 11]
    assert least(cost, 11) == list(range(12))
    with pytest.raises(ValueError, match="12 levels allow 1 to 11 jumps, not 12"):
        least(cost, 12)


def test_a_jump_costs_what_eulers_step_is_off() -> None:
    """The three metrics, from the trajectories themselves."""
    t = teachings()
    i, j = 20, 33
    reached = t.y[i] + (t.scales[j] - t.scales[i]) * t.z[i]
    off = reached - t.y[j]
    assert float(t.jumps("l2")[i, j]) == pytest.approx(float(off.norm(dim=1).mean()), rel=1e-12)
    assert float(t.jumps("l1")[i, j]) == pytest.approx(float(off.abs().sum(1).mean()), rel=1e-12)
    a, c = t.y[0], t.y[-1]

    def from_chord(b: torch.Tensor) -> torch.Tensor:  # by Pythagoras
        along = ((b - a) * (c - a)).sum(1) / (c - a).norm(dim=1)
        return ((b - a).norm(dim=1) ** 2 - along**2).sqrt()

    wanted = float((from_chord(reached) - from_chord(t.y[j])).mean())
    assert float(t.jumps("deviation")[i, j]) == pytest.approx(wanted, rel=1e-6)
    assert float(t.jumps("l2")[i, i + 1]) < 0.02 * float(t.jumps("l2")[i, -1])


@pytest.mark.parametrize("path", [VariancePreserving(), Trig(0.5)], ids=repr)
def test_the_costs_are_the_same_on_every_path(path: GaussianPath) -> None:
    """From the same start in the units of data."""
    found = [Teachings.of(subject(2, p, 9.0), 12).jumps("l2") for p in (VarianceExploding(), path)]
    scale = 1 / path.alpha(path.time_at(9.0))
    assert scale > 1
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-9)


# The shape


def test_trajectories_have_one_shape_in_a_plane() -> None:
    """How far a hundred are from their chords varies by less than a fifth of the bend; and 99.9 % of each lies in two
    directions.
    """
    dev = teachings().deviations()
    assert float(dev.std(1).max() / dev.mean(1).max()) < 0.2
    assert float(dev.mean(1).max()) > 1.0
    assert float(teachings().in_planes(2).min()) > 0.999


# The grid


RULES = (1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24)
"""The linear multistep rules of Liu, Ren, Lin and Zhao, "Pseudo numerical methods for diffusion models on manifolds",
by the number of estimates at hand: `dy = h (55 z_0 - 59 z_1 + 37 z_2 - 9 z_3) / 24`.
"""


def by_rules(seed: int, grid: Fitted | Rho, reference: torch.Tensor, order: int = 4) -> float:
    """By hand, on the exploding path, where a time is a noise scale."""
    own = subject(seed)
    x, past = own.start(), list[torch.Tensor]()
    for r, s in itertools.pairwise(float(t) for t in grid.levels(PATH).rows()):
        past = [(x - law().posterior_mean(PATH, x, r)) / r, *past][:order]
        rule = RULES[len(past) - 1] if s else (1.0,)  # the last step, to clean, is Euler's
        for c, z in zip(rule, past, strict=False):
            x = x + (s - r) * c * z
    return float(own.rms(x, reference))


@cache
def reference() -> torch.Tensor:
    return teacher_ends(subject(7), 25)


@pytest.mark.parametrize("n", [5, 6])
def test_walks_end_nearer_to_where_they_should(n: int) -> None:
    """Than by EDM's grid of as many steps, whether it spends one on its lowest level or goes to clean before it; by
    Euler's steps and by a multistep rule, from starts that were not looked at.
    """
    own, edm = teachings().grid(n), Rho(n, 7.0, LOW, HIGH)
    ended = Fitted(tuple(float(t) for t in Rho(n + 1, 7.0, LOW, HIGH).levels(PATH).rows()[:-2]))
    by_euler = {grid: endpoint_error(subject(7), solvers.DDIM(), grid, reference()) for grid in (own, edm, ended)}
    assert by_euler[own] < 0.75 * by_euler[edm]
    assert by_euler[own] < 0.75 * by_euler[ended]
    assert by_rules(7, own, reference()) < 0.75 * by_rules(7, edm, reference())


def test_a_walk_by_hand_is_eulers() -> None:
    grid = teachings().grid(5)
    wanted = endpoint_error(subject(7), solvers.DDIM(), grid, reference())
    assert by_rules(7, grid, reference(), order=1) == pytest.approx(wanted, rel=1e-9)
