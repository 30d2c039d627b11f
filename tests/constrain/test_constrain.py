"""Constraints against independent solvers, brute force and dense sampling."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from kedge.constrain import (
    Constraint,
    Feasible,
    HalfSpace,
    Limits,
    Moves,
    OutsideBox,
    OutsideDisc,
    Rows,
    chosen,
    nearest,
)
from kedge.data import Normaliser
from kedge.errors import InputError

f64 = torch.float64
SKEW = Normaliser(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.5])).double()
H = 16
FIRST = torch.zeros(H, 2, dtype=torch.bool)
FIRST[0] = True


def projected(constraint: Constraint, x: np.ndarray | Tensor, known: Tensor = FIRST, **how: Any) -> Tensor:
    """`[H, D]` in the data's units, by way of a network's."""
    own = torch.as_tensor(x, dtype=f64)[None]
    z = SKEW(own)
    return SKEW.undo(Feasible((constraint,), **how).project(z, SKEW, known, z))[0]


def test_a_projection_is_the_one_of_an_independent_solver() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        A, x = rng.normal(size=(6, 8)), rng.normal(size=8)
        low, high = np.full(6, -np.inf), A @ rng.normal(size=8)
        low[:2] = high[:2]
        rules: list[Any] = [{"type": "eq", "fun": lambda z: A[:2] @ z - high[:2]}]  # noqa: B023
        rules += [{"type": "ineq", "fun": lambda z: high[2:] - A[2:] @ z}]  # noqa: B023
        found = nearest(x, Rows(A, low, high))
        assert found is not None
        other = minimize(lambda z: 0.5 * ((z - x) ** 2).sum(), found + 0.1, constraints=rules, tol=1e-14).x  # noqa: B023
        np.testing.assert_allclose(found, other, rtol=0, atol=1e-6)
        again = nearest(found, Rows(A, low, high))
        assert again is not None
        np.testing.assert_allclose(again, found, rtol=0, atol=1e-9)


def test_rows_that_contradict_each_other_have_no_solution() -> None:
    assert nearest(np.zeros(1), Rows(np.ones((2, 1)), np.array([1.0, -np.inf]), np.array([np.inf, 0.0]))) is None


def test_what_nothing_satisfies_is_left_as_it_is_and_said() -> None:
    x = torch.zeros(1, H, 2, dtype=f64)
    held = Feasible((HalfSpace([1.0, 0.0], -1.0), HalfSpace([-1.0, 0.0], -1.0)))
    assert torch.equal(held.project(x, SKEW, FIRST, x), x)
    assert held.missed(x).tolist() == [1.0]


def walks(count: int, seed: int = 0) -> list[tuple[np.ndarray, OutsideBox | OutsideDisc]]:
    """Random ways, and each with a zone in it."""
    rng = np.random.default_rng(seed)
    made: list[tuple[np.ndarray, OutsideBox | OutsideDisc]] = []
    for k in range(count):
        x = np.cumsum(0.5 * rng.normal(size=(H, 2)), 0)
        (cx, cy), size = x[rng.integers(1, H)] + 0.3 * rng.normal(size=2), rng.uniform(0.1, 1, 4)
        box = OutsideBox(cx - size[0], cy - size[1], cx + size[2], cy + size[3])
        made.append((x, box if k % 2 else OutsideDisc(cx, cy, size[0])))
    return made


def deepest(p: np.ndarray, zone: OutsideBox | OutsideDisc) -> float:
    """How far inside the way is, looked at in 200 places a segment; the first segment only where it begins outside."""
    s = np.linspace(0, 1, 200)[:, None, None]
    way = (p[:-1] + s * np.diff(p, axis=0))[:, int(zone.within(p[:1])[0]) :].reshape(-1, 2)
    if isinstance(zone, OutsideDisc):
        return float((zone.radius - np.linalg.norm(way - [zone.x, zone.y], axis=1)).max())
    low, high = [zone.x_from, zone.y_from], [zone.x_to, zone.y_to]
    return float(np.minimum(way - low, high - way).min(1).max())


def test_no_way_through_a_zone_is_left() -> None:
    """All of the way, not its points alone; and the distance that is reported is that of the way."""
    crossed = 0
    for x, zone in walks(40):
        before, after = torch.from_numpy(x)[None], projected(zone, x)
        depth = deepest(x, zone)
        assert float(zone.missed(before)) == pytest.approx(max(depth, 0), abs=0.02)
        assert float(zone.missed(before)) >= depth - 1e-9
        assert float(zone.missed(after[None])) < 1e-8
        assert deepest(after.numpy(), zone) < 1e-8
        assert torch.allclose(after[0], before[0, 0], atol=1e-12)
        crossed += depth > 0.05
    assert crossed > 25


@pytest.mark.slow
def test_no_way_through_any_of_a_thousand_zones_is_left() -> None:
    for x, zone in walks(1000, seed=1):
        assert deepest(projected(zone, x).numpy(), zone) < 1e-8


def test_a_box_is_left_by_the_sides_that_cost_least() -> None:
    """Against all choices of a side for each of three segments."""
    box, rng = OutsideBox(-1.0, -0.6, 1.0, 0.6), np.random.default_rng(3)
    unit = Normaliser(torch.zeros(2), torch.ones(2)).double()
    normals = {"left": (0, 1.0, -1.0), "right": (0, -1.0, -1.0), "below": (1, 1.0, -0.6), "above": (1, -1.0, -0.6)}
    known = torch.zeros(4, 2, dtype=torch.bool)
    known[0] = True
    for _ in range(10):
        x = np.concatenate([[[-1.5, 0.1]], rng.uniform(-1, 1, (3, 2)) * [1.6, 0.9]])
        own = torch.from_numpy(x)[None]
        found = float(((Feasible((box,), rounds=1).project(own, unit, known, own) - own) ** 2).sum())
        best = np.inf
        for sides in product(normals, repeat=3):
            A, high = np.zeros((6, 4, 2)), np.zeros(6)
            for k, name in enumerate(sides):
                axis, sign, most = normals[name]
                for end in (0, 1):
                    A[2 * k + end, k + end, axis], high[2 * k + end] = sign, most
            rows = Rows(A.reshape(6, 8), np.full(6, -np.inf), high)
            if rows.A[0] @ x.ravel() > high[0]:
                continue  # the first point does not move
            moved = nearest(x.ravel()[2:], rows.given(known.numpy().ravel(), x.ravel()))
            if moved is not None:
                best = min(best, float(((moved - x.ravel()[2:]) ** 2).sum()))
        assert found == pytest.approx(best, abs=1e-9)


def test_where_a_way_begins_inside_it_leaves_and_where_it_must_end_inside_it_says_so() -> None:
    x = np.linspace([0.0, 0.1], [3.0, 0.1], H)
    for zone in (OutsideBox(-0.3, -0.3, 0.3, 0.3), OutsideDisc(0.0, 0.0, 0.4)):
        after = projected(zone, x)
        assert float(zone.missed(after[None])) < 1e-8
        assert deepest(after.numpy(), zone) < 1e-8
        assert torch.allclose(after[0], torch.from_numpy(x)[0], atol=1e-12)
    ends = FIRST.clone()
    ends[-1] = True
    zone = OutsideBox(2.8, -1.0, 3.2, 1.0)
    after = projected(zone, x, ends)
    assert torch.allclose(after[-1], torch.from_numpy(x)[-1], atol=1e-12)
    assert float(zone.missed(after[None])) > 0.1


def test_linear_constraints_hold_and_report_what_they_miss() -> None:
    x = np.random.default_rng(0).normal(size=(H, 2)).cumsum(0)
    tall, wall = Limits(1, 2, -1.0, 1.0), HalfSpace([3.0, 4.0], 1.0)
    pendulum = Moves([[1.0, 0.1], [-0.1, 0.9]], [0.0, 0.2])
    for constraint in (tall, wall, pendulum):
        assert float(constraint.missed(torch.from_numpy(x))) > 0.1
        assert float(constraint.missed(projected(constraint, x))) < 1e-8
    own = torch.tensor([[9.0, 9.0], [1.0, 2.0], [0.0, -1.5]], dtype=f64)
    assert float(wall.missed(own)) == pytest.approx((3 + 8 - 1) / 5)
    assert float(tall.missed(own)) == pytest.approx(1.0)
    assert float(Moves.by_velocity(0.5, 1).missed(own)) == pytest.approx(9 + 4.5 - 1)


def test_tightened_is_so_much_further_out() -> None:
    x = np.linspace([-2.0, 0.1], [2.0, 0.1], H)
    for zone in (OutsideBox(-0.5, -0.5, 0.5, 0.5), OutsideDisc(0.0, 0.0, 0.5)):
        assert deepest(projected(zone, x, tighten=0.2).numpy(), zone) == pytest.approx(-0.2, abs=1e-3)
    half = HalfSpace([0.0, 2.0], 1.0)
    assert float(projected(half, x + np.array([0.0, 3.0]), tighten=0.2)[5, 1]) == pytest.approx(0.3)


def test_one_of_several_is_chosen_by_its_rule() -> None:
    last = torch.arange(3, dtype=f64)[None, :, None]
    plans = torch.stack([last + 5, last + 1, last], 1)
    moved = torch.tensor([[1.0, 2.0, 0.5]])
    assert int(chosen("random", plans, moved, last)) == 0
    assert int(chosen("steady", plans, moved, last)) == 1
    assert int(chosen("cheapest", plans, moved, last)) == 2
    assert int(chosen("steady", plans, moved)) == 0


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Feasible(()), "one constraint or more"),
        (lambda: Feasible((HalfSpace([1.0], 0.0),), -1.0), "tighten >= 0"),
        (lambda: HalfSpace([0.0, 0.0], 0.0), "other than zero"),
        (lambda: Moves([[1.0], [1.0]]), "d <= D"),
        (lambda: Limits(1, 1, 0.0, 1.0), "first < last"),
        (lambda: OutsideBox(1.0, 0.0, 0.0, 1.0), "less than its to"),
        (lambda: OutsideDisc(0.0, 0.0, 0.0), "positive"),
        (lambda: projected(Moves.by_velocity(0.1), np.zeros((H, 2))), "points of 4 numbers, these have 2"),
    ],
)
def test_bad_input_is_told(make: Any, line: str) -> None:
    with pytest.raises(InputError, match=line):
        make()
