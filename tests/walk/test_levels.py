"""Levels given by hand: per entry, learned, at rest, rising, or wrong."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import kedge
from kedge.walk.grids import Levels, LogSNR
from walk.oracles import DETERMINISTIC, PATHS, RANDOM, SOLVERS, Factorised, Spy, f64, geometric, mixture, start

SHAPE = 3, 4, 2


def by_hand(path: str, n: int = 6) -> torch.Tensor:
    return torch.tensor(LogSNR(n, scale_min=0.02, scale_max=10.0).levels(PATHS[path]).t, dtype=f64)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("path", PATHS)
def test_levels_per_entry_equal_to_one_level_are_that_level(path: str, name: str) -> None:
    p, t = PATHS[path], by_hand(path)
    x = start(p, float(t[0]), SHAPE)
    forms = [
        t.tolist(), t, t[:, None].expand(-1, 4), t[:, None, None].expand(-1, 4, 2), t[:, None, None].expand(-1, 1, 2),
        t.clone().requires_grad_(),
    ]  # fmt: skip
    walks = [kedge.sample(Factorised(p), x, Levels(form), SOLVERS[name], seeds=2) for form in forms]
    for walk in walks[1:]:
        torch.testing.assert_close(walk, walks[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("path", PATHS)
def test_each_entry_walks_its_own_levels(path: str, name: str) -> None:
    """Independent entries: one clean from the start, one as usual, one ahead by a step, one that waits."""
    p, t = PATHS[path], by_hand(path)
    grids = torch.stack(
        [torch.zeros_like(t), t, torch.cat([t[1:], t[-1:]]), torch.cat([t[:1], t[:1], t[:1], t[3:]])], 1
    )
    x = start(p, float(t[0]), SHAPE)
    whole = kedge.sample(Factorised(p), x, Levels(grids), SOLVERS[name], seeds=2)
    assert torch.equal(whole[:, 0], x[:, 0])
    for entry in (1, 2, 3):
        # Alone: the same walk in which all entries have this one's levels, so that the noise is the same too.
        alone = kedge.sample(Factorised(p), x, Levels(grids[:, entry].tolist()), SOLVERS[name], seeds=2)
        torch.testing.assert_close(whole[:, entry], alone[:, entry], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("path", PATHS)
def test_a_step_of_no_length_changes_nothing(path: str, name: str) -> None:
    """... also at time 0, for one level or one per entry."""
    p = PATHS[path]
    t = p.time_at(0.5)
    x = start(p, t, SHAPE)
    for level in (t, 0.0):
        for levels in ([level] * 3, torch.full((3, 4), level, dtype=f64)):
            assert torch.equal(kedge.sample(Factorised(p), x, Levels(levels), SOLVERS[name], seeds=1), x)


@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if name not in ("2M", "2M-own", "3M", "3M-own")])
def test_a_rest_on_the_way_is_not_noticed(name: str) -> None:
    p = PATHS["VP"]
    t = by_hand("VP").tolist()
    x = start(p, t[0], SHAPE)
    rest = [*t[:3], t[2], *t[3:]]
    walks = [kedge.sample(Factorised(p), x, Levels(levels), DETERMINISTIC[name]) for levels in (t, rest)]
    torch.testing.assert_close(*walks, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["2M", "2M-own", "3M", "3M-own"])
def test_a_rest_on_the_way_costs_one_step_of_first_order(name: str) -> None:
    """There is no slope across a rest. One step's error of h^2 leaves the walk at order 2."""
    p = PATHS["VP"]
    x = start(p, p.time_at(3.0), SHAPE)
    cost = []
    for n in (40, 80):
        t = geometric(p, 3.0, 0.1, n)
        rest = [*t[: n // 2], t[n // 2 - 1], *t[n // 2 :]]
        walks = [kedge.sample(Factorised(p), x, Levels(levels), DETERMINISTIC[name]) for levels in (t, rest)]
        cost.append(float((walks[0] - walks[1]).norm()))
    assert abs(math.log2(cost[0] / cost[1]) - 2) < 0.15


@pytest.mark.parametrize("name", ["DDIM", "Heun", "Euler", "2M", "3S"])
@pytest.mark.parametrize("path", PATHS)
def test_inversion_returns_to_the_start(path: str, name: str) -> None:
    """Up and down the flow again: the error falls with the grid at the solver's order."""
    p, law = PATHS[path], mixture()
    low, high = 0.05, 1.0
    x = law.marginal(p, p.time_at(low)).sample(16, seeds=3)
    errors = []
    for n in (20, 40):
        down = geometric(p, high, low, n)
        levels = Levels([*reversed(down), *down[1:]], rise="solve")
        errors.append(float((kedge.sample(law.denoiser(p), x, levels, DETERMINISTIC[name]) - x).norm()))
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.5


def test_inversion_finds_the_noise_of_a_gaussian() -> None:
    """The flow of Gaussian data is known: x_t = alpha m + sqrt((alpha^2 v + sigma^2) / (...)_s) (x_s - alpha_s m)."""
    p, m, v = PATHS["VP"], 0.3, 0.5
    up = list(reversed(geometric(p, 3.0, 0.1, 60)))
    x = start(p, up[0], (5, 2))
    got = kedge.sample(Factorised(p, m, v), x, Levels(up, rise="solve"), DETERMINISTIC["3S"])
    spread = [math.sqrt(p.alpha(t) ** 2 * v + p.sigma(t) ** 2) for t in (up[0], up[-1])]
    exact = p.alpha(up[-1]) * m + spread[1] / spread[0] * (x - p.alpha(up[0]) * m)
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", RANDOM)
def test_random_solvers_do_not_invert(name: str) -> None:
    with pytest.raises(
        ValueError, match=r'^rise="solve" inverts the deterministic flow, but .* is random: use DDIM\(\)$'
    ):
        kedge.sample(Factorised(PATHS["VP"]), torch.zeros(2, 2), Levels([0.2, 0.3], rise="solve"), RANDOM[name])


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("path", PATHS)
def test_a_rise_forgets_and_asks_no_network(path: str, name: str) -> None:
    """Down, up by noise, down again: what comes after the rise is a walk of its own."""
    p, whole, first, rest = PATHS[path], Spy(PATHS[path]), Spy(PATHS[path]), Spy(PATHS[path])
    t = by_hand(path, 5).tolist()
    x = start(p, t[0], SHAPE)
    end = kedge.sample(whole, x, Levels([*t[:-1], *t[1:]], rise="noise"), SOLVERS[name], seeds=1)
    low = kedge.sample(first, x, Levels(t[:-1]), SOLVERS[name], seeds=1)
    r = p.alpha(t[1]) / p.alpha(t[-2])
    std = math.sqrt(p.sigma(t[1]) ** 2 - (r * p.sigma(t[-2])) ** 2)
    up = r * low + std * kedge.Noise.of(1, 3).normal(SHAPE, 4)
    seen = whole.calls[len(first.calls)]
    assert seen[1] == t[1]
    torch.testing.assert_close(seen[0], up, rtol=0, atol=1e-12)
    if name in DETERMINISTIC and not name.endswith("own"):
        again = kedge.sample(rest, up, Levels(t[1:]), SOLVERS[name])
        torch.testing.assert_close(end, again, rtol=0, atol=1e-12)
        assert len(whole.calls) == len(first.calls) + len(rest.calls)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("path", PATHS)
def test_a_rise_may_start_from_the_data(path: str, name: str) -> None:
    p, D = PATHS[path], Spy(PATHS[path])
    t = by_hand(path, 4).tolist()
    end = kedge.sample(D, start(p, t[0], SHAPE), Levels([*t, *t[1:]], rise="noise"), SOLVERS[name], seeds=1)
    assert bool(end.isfinite().all())
    clean = kedge.sample(D, start(p, t[0], SHAPE), Levels(t), SOLVERS[name], seeds=1)
    z = kedge.Noise.of(1, 3).normal(SHAPE, 4)
    asked = [x for x, u in D.calls[: -SOLVERS[name].evaluations(4)] if u == t[1]]
    torch.testing.assert_close(asked[-1], p.alpha(t[1]) * clean + p.sigma(t[1]) * z, rtol=0, atol=1e-12)


def test_float32_levels_may_round_beyond_the_end() -> None:
    p = PATHS["Rectified"]
    levels = Levels(torch.linspace(p.t_max, 0, 5))
    assert levels.levels(p).rows()[0] == p.t_max
    assert levels.levels(p).rows()[1] == pytest.approx(0.75 * p.t_max, rel=1e-7)


def test_levels_for_one_run() -> None:
    p = PATHS["VP"]
    walk = kedge.Walk(Factorised(p), kedge.solvers.DDPM(), LogSNR(5))
    x = start(p, 0.5, (3, 2))
    there = Levels([0.5, 0.25, 0.0])
    expected = kedge.sample(Factorised(p), x, there, kedge.solvers.DDPM(), seeds=1)
    assert torch.equal(walk.run(x, levels=there, seeds=1).x, expected)


@pytest.mark.parametrize(
    ("levels", "line"),
    [
        (
            [0.5, 0.6, 0.0],
            r"^the grid rises after level 0, from 0.5 to 0.6: levels go from the noisiest to the cleanest;",
        ),
        (
            [0.5, 1.5, 0.0],
            r"^level 1 of the grid: time 1.5 lies outside the path VariancePreserving\(.*\): times run from",
        ),
        ([0.5, -0.1], "^level 1 of the grid: time -0.1 lies outside the path"),
        ([0.5, math.nan, 0.0], "^level 1 of the grid: time nan lies outside the path"),
        (torch.tensor([[0.5, 0.5], [math.inf, 0.2]]), "^level 1 of the grid: time inf lies outside the path"),
        ([0.5], "^a grid needs at least two levels, got 1$"),
        (torch.zeros(0), "^a grid needs at least two levels, got 0$"),
        (torch.tensor([[0.5, 0.5], [0.6, 0.4]]), "^the grid rises after level 0, from 0.5 to 0.4..0.6: levels go"),
        (torch.full((3, 5), 0.5), r"^levels for entries \(5,\) do not fit a state of entries \(2,\)$"),
        (torch.full((3, 2, 1), 0.5), r"^levels for entries \(2, 1\) do not fit a state of entries \(2,\)$"),
    ],
)
def test_bad_levels_are_refused_in_one_line(levels: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line) as error:
        kedge.sample(Factorised(PATHS["VP"]), torch.zeros(3, 2), Levels(levels))
    assert "\n" not in str(error.value)


def test_rises_that_mean_nothing_are_refused() -> None:
    both = torch.tensor([[0.5, 0.5], [0.6, 0.4]])
    with pytest.raises(ValueError, match=r"^after level 0 some entries rise and others fall: split it into two steps$"):
        kedge.sample(Factorised(PATHS["VP"]), torch.zeros(3, 2), Levels(both, rise="noise"))
    with pytest.raises(ValueError, match=r"^level 0 is clean: an inversion starts a little above, at t_min"):
        kedge.sample(Factorised(PATHS["VP"]), torch.zeros(3, 2), Levels([0.0, 0.5], rise="solve"))


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("path", PATHS)
def test_grids_that_are_joined_may_meet_a_last_digit_apart(path: str, name: str) -> None:
    """A step of rounding's length is no step: no slope is taken over it, and it is no rise."""
    p = PATHS[path]
    t = LogSNR(8, scale_min=0.05, scale_max=5.0).levels(p).t
    x = start(p, float(t[0]), (64, 2)).float()  # float32 estimates: a slope over rounding would be rounding
    plain = kedge.sample(mixture().denoiser(p), x, Levels(t), SOLVERS[name], seeds=0)
    for shift in (-1e-13, -1e-15, 0.0, 1e-15, 1e-13):
        joined = Levels([*t[:5], float(t[4]) * (1 + shift), *t[5:]])
        walked = kedge.sample(mixture().denoiser(p), x, joined, SOLVERS[name], seeds=0)
        if SOLVERS[name].density == "none":
            # the step after the joint is of first order, as after a start
            torch.testing.assert_close(walked, plain, rtol=0, atol=0.1)
        assert walked.abs().max() < 10
    with pytest.raises(ValueError, match="rises after level 4"):
        Levels([*t[:5], float(t[4]) * (1 + 1e-9), *t[5:]]).levels(p)


@pytest.mark.parametrize("path", PATHS)
def test_a_learned_rise_with_entries_at_rest_has_finite_gradients(path: str) -> None:
    p = PATHS[path]
    scales = torch.tensor([[2.0, 2.0], [0.5, 0.5], [2.0, 0.5], [0.3, 0.3]], dtype=f64)
    t = p.time_at(scales).requires_grad_()
    x = kedge.sample(
        Factorised(p), start(p, float(t[0, 0].detach()), (4, 2)), Levels(t, rise="noise"), seeds=0, grad=True
    )
    x.sum().backward()
    assert t.grad is not None
    assert bool(t.grad.isfinite().all())
