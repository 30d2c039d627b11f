"""What is measured about plans, against a slow reading of the same definitions and against cases worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.envs import Layout
from kedge.envs.task import Planned
from kedge.run import feasibility as room
from kedge.run.feasibility import REACH, Feasibility, feasibility
from run.line import Fence


def plan_of(step: int, points: list[tuple[float, float]], episode: int = 0, stride: int = 2) -> Planned:
    return Planned(step, stride, np.array([episode]), np.array([points], dtype=float), np.zeros(1))


def nearest(position: np.ndarray, points: np.ndarray) -> tuple[float, int]:
    """The distance to a polyline, segment by segment, and the first segment that is so near."""
    best, where = float(np.linalg.norm(position - points[0])), 0
    for k, (a, b) in enumerate(itertools.pairwise(points)):
        d = b - a
        s = min(1.0, max(0.0, float((position - a) @ d / (d @ d)))) if d @ d else 0.0
        found = float(np.linalg.norm(position - a - s * d))
        if found < best:
            best, where = found, k
    return best, where


def slowly(plans: list[Planned], positions: np.ndarray, ends: np.ndarray, walls: Layout, reach: float) -> Feasibility:
    """One plan, one segment, one step at a time."""
    n = len(positions)
    out = {name: np.zeros(n) for name in Feasibility.__dataclass_fields__}
    for episode in range(n):
        own = [(p.step, p.stride, p.points[list(p.episodes).index(episode)]) for p in plans if episode in p.episodes]
        own.sort(key=lambda made: made[0])
        for i, (step, stride, points) in enumerate(own):
            until = min(own[i + 1][0] if i + 1 < len(own) else 10**9, int(ends[episode]))
            if until <= step:
                continue
            gap = float(np.linalg.norm(points[0] - positions[episode, step]))
            moves = [float(np.abs(b - a).max()) for a, b in itertools.pairwise(points)]
            crossing = [bool(walls.crosses(a[None], b[None])[0]) for a, b in itertools.pairwise(points)]
            out["plans"][episode] += 1
            out["start_gap"][episode] += gap
            out["start_gap_max"][episode] = max(out["start_gap_max"][episode], gap)
            out["largest_step"][episode] = max([out["largest_step"][episode], *moves])
            out["plans_over_reach"][episode] += any(move > reach * stride for move in moves)
            out["prefixes_crossing"][episode] += any(crossing[: math.ceil((until - step) / stride)])
            out["plans_crossing"][episode] += any(crossing)
            came = max(nearest(positions[episode, moment], points)[1] for moment in range(step + 1, until + 1)) + 1
            out["followed_crossing"][episode] += any(crossing[:came])
            for moment in range(step + 1, until + 1):
                time = (moment - step) / stride
                where = [np.interp(time, range(len(points)), points[:, axis]) for axis in (0, 1)]
                there = positions[episode, moment]
                out["tracked_steps"][episode] += 1
                out["tracking"][episode] += float(np.linalg.norm(there - where))
                out["off_path"][episode] += nearest(there, points)[0]
    none = out["plans"] == 0
    for name, count in (("start_gap", "plans"), ("tracking", "tracked_steps"), ("off_path", "tracked_steps")):
        out[name] = np.array([t / c if c else np.nan for t, c in zip(out[name], out[count], strict=True)])
    for name in ("start_gap_max", "largest_step"):
        out[name][none] = np.nan
    whole = ("plans", "plans_over_reach", "tracked_steps", "prefixes_crossing", "plans_crossing",
             "followed_crossing")  # fmt: skip
    return Feasibility(**{name: out[name].astype(int) if name in whole else out[name] for name in out})


def scene(seed: int) -> tuple[list[Planned], np.ndarray, np.ndarray]:
    """Six episodes that replan when they like, with plans of two kinds, one of a point alone now and then."""
    rng = np.random.default_rng(seed)
    episodes, horizon = 6, 40
    positions = 1 + rng.uniform(0, 2, (episodes, 1, 2)) + np.cumsum(rng.normal(0, 0.03, (episodes, horizon + 1, 2)), 1)
    ends = rng.integers(1, horizon + 1, episodes)
    plans = []
    for step in range(horizon):
        own = np.flatnonzero(rng.random(episodes) < 0.15)
        stride, length = [(3, 5), (1, 8), (3, 8), (4, 1)][rng.integers(4)]
        steps = np.cumsum(rng.normal(0, 0.1, (len(own), length, 2)), 1)
        if len(own):
            plans.append(Planned(step, stride, own, positions[own, step][:, None] + steps, np.zeros(len(own))))
    return plans, positions, ends


@given(st.integers(0, 10_000))
def test_all_at_once_is_one_at_a_time(seed: int) -> None:
    plans, positions, ends = scene(seed)
    walls = Layout.of("umaze")
    fast = feasibility(plans, positions, ends, walls=walls, reach=0.05)
    slow = slowly(plans, positions, ends, walls, 0.05)
    for name in Feasibility.__dataclass_fields__:
        assert np.allclose(getattr(fast, name), getattr(slow, name), rtol=1e-9, atol=1e-12, equal_nan=True), name


def test_the_order_of_plans_and_the_size_of_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plans, positions, ends = scene(3)
    walls = Layout.of("umaze")
    whole = feasibility(plans, positions, ends, walls=walls)
    monkeypatch.setattr(room, "CHUNK", 7)
    parts = feasibility(plans[::-1], positions, ends, walls=walls)
    for name in Feasibility.__dataclass_fields__:
        assert np.allclose(getattr(whole, name), getattr(parts, name), equal_nan=True), name
    assert whole.plans.sum() > 10


POINTS = [(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (3.0, 0.0)]
"""Two steps from one to the next."""


@pytest.mark.parametrize(
    ("end", "wall", "prefix"),
    [(1, 0.5, True), (2, 0.5, True), (2, 1.5, False), (3, 1.5, True), (4, 2.5, False), (5, 2.5, True), (9, 2.5, True)],
)
def test_the_executed_prefix_ends_with_the_segment_that_was_begun(end: int, wall: float, prefix: bool) -> None:
    """After 3 steps of 2 a segment, the second is under way and counts; after 2 it is not."""
    positions = np.zeros((1, 11, 2))
    found = feasibility([plan_of(0, POINTS)], positions, np.array([end]), walls=Fence(wall, wall + 0.1))
    assert found.summary()["executed_prefixes_crossing"] == prefix
    assert found.summary()["whole_plans_crossing"] == 1


def test_a_plan_is_in_force_until_the_next_of_its_own_episode() -> None:
    positions = np.zeros((2, 11, 2))
    plans = [plan_of(0, POINTS), plan_of(0, POINTS, episode=1), plan_of(2, POINTS)]
    found = feasibility(plans, positions, np.array([4, 4]), walls=Fence(1.5, 1.6))
    assert found.prefixes_crossing is not None
    assert found.prefixes_crossing.tolist() == [0, 1]
    assert found.tracked_steps.tolist() == [4, 4]


def test_a_plan_made_when_its_episode_was_over_does_not_count() -> None:
    positions = np.full((1, 11, 2), np.nan)
    positions[0, :5] = 0
    found = feasibility([plan_of(0, POINTS), plan_of(4, POINTS)], positions, np.array([4]), walls=Fence(9, 10))
    assert found.plans.tolist() == [1]
    assert found.tracked_steps.tolist() == [4]


def test_of_two_plans_at_one_step_the_later_is_in_force() -> None:
    away = [(x, 5.0) for x, _ in POINTS]
    found = feasibility([plan_of(0, away), plan_of(0, POINTS)], np.zeros((1, 5, 2)), np.array([4]))
    assert found.plans.tolist() == [1]
    assert found.start_gap.tolist() == [0.0]


def test_tracking_is_in_time_and_off_path_is_not() -> None:
    """A body that goes the planned way at half the speed is .25 i behind after i steps, and never off the path."""
    positions = np.zeros((1, 5, 2))
    positions[0, :, 0] = 0.25 * np.arange(5)
    found = feasibility([plan_of(0, POINTS)], positions, np.array([4]))
    assert found.tracking[0] == pytest.approx(0.25 * (1 + 2 + 3 + 4) / 4)
    assert found.off_path[0] == pytest.approx(0)
    aside = feasibility([plan_of(0, POINTS)], positions + np.array([0.0, 0.3]), np.array([4]))
    assert aside.off_path[0] == pytest.approx(0.3)
    assert aside.start_gap[0] == pytest.approx(0.3)


def test_after_its_last_point_a_plan_rests() -> None:
    positions = np.zeros((1, 11, 2))
    positions[0, 1:] = (3, 0)
    found = feasibility([plan_of(0, POINTS)], positions, np.array([10]))
    assert found.tracking[0] * 10 == pytest.approx(2.5 + 2 + 1.5 + 1 + 0.5)


def test_a_step_may_reach_as_far_as_physics_allows_along_either_axis() -> None:
    """15 steps at 5.24 m/s for .01 s each are .786 m."""
    assert pytest.approx(0.786) == REACH * 15
    for far, over in ((0.785, 0), (0.787, 1)):
        for point in ((far, 0.0), (0.0, -far), (far, far)):
            found = feasibility([plan_of(0, [(0.0, 0.0), point], stride=15)], np.zeros((1, 5, 2)), np.array([4]))
            assert found.plans_over_reach.tolist() == [over]
            assert found.largest_step.tolist() == [far]


def test_means_are_over_plans_and_steps_not_over_episodes() -> None:
    """An episode of three plans that start .1 off and one of one that starts .5 off: .2 on average."""
    near, far = [(0.1, 0.0)] * 2, [(0.5, 0.0)] * 2
    plans = [plan_of(0, near), plan_of(1, near), plan_of(2, near), plan_of(0, far, episode=1)]
    found = feasibility(plans, np.zeros((2, 5, 2)), np.array([3, 1])).summary()
    assert found["start_gap_mean"] == pytest.approx(0.2)
    assert found["start_gap_max"] == pytest.approx(0.5)
    assert found["tracking_mean"] == found["off_path_mean"] == pytest.approx(0.2)
    assert found["plans"] == found["tracked_steps"] == 4
    assert found["executed_prefixes_crossing"] is None


def test_without_plans_there_is_nothing_to_say() -> None:
    found = feasibility([], np.zeros((3, 5, 2)), np.array([4, 4, 4]), walls=Fence(0, 1))
    assert found.summary() == {"plans": 0}
    assert found.plans.tolist() == [0, 0, 0]
    assert np.isnan(found.largest_step).all()


def test_the_followed_part_reaches_as_far_as_the_body_came() -> None:
    """A follower that is ahead of the plan's time comes along segments whose time has not come."""
    line = [(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (3.0, 0.0)]
    there = np.array([[[0.0, 0.0], [0.8, 0.0], [1.7, 0.0], [1.2, 0.0], [1.3, 0.0]]])
    for wall, followed in ((0.5, 1.0), (1.5, 1.0), (2.5, 0.0)):
        plans = [plan_of(0, line, stride=4)]
        found = feasibility(plans, there, np.array([4]), walls=Fence(wall, wall + 0.1)).summary()
        assert found["executed_prefixes_crossing"] == (wall < 1)
        assert found["followed_parts_crossing"] == followed
        assert found["whole_plans_crossing"] == 1.0
