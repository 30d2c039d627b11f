"""Whether plans could be carried out: measured beside every score, never used to act.

A plan is made at one step of an episode and is the plan in force until the next one of that episode, the episode's
first success or its end. Its *executed prefix* is the segments between neighbouring points whose time came while it
was in force, a begun one included; its *followed part* reaches as far as the body came, which may be ahead of the
plan's time; the *whole plan* is all of it. The map of walls enters here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from kedge.envs.task import Planned

REACH = 5.24 * 0.01
"""Metres an axis that physics allows in one step of Maze2D: 5.24 m/s at full thrust, for .01 s; .786 m in 15 steps."""
CHUNK = 100_000
"""Segments, or positions, that are looked at together, which bounds the memory."""


@runtime_checkable
class Walls(Protocol):
    """A map that knows which segments meet a wall."""

    def crosses(self, a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Whether the segment from each `a` to its `b` meets a wall box."""
        ...


@dataclass(frozen=True)
class Feasibility:
    """What was measured, an entry an episode; nan or 0 where an episode has no plan. `None` without a map of walls.

    `start_gap` is the distance between a plan's first point and the true position (mean and largest over the plans);
    `largest_step` the largest move between neighbours along an axis, `plans_over_reach` how many plans have one that
    physics does not allow; `tracking` the mean distance of the executed positions to where the plan in force has the
    body at that time, `off_path` to the nearest point of that plan, both over `tracked_steps`.
    """

    plans: Int[np.ndarray, " episodes"]
    start_gap: Float[np.ndarray, " episodes"]
    start_gap_max: Float[np.ndarray, " episodes"]
    largest_step: Float[np.ndarray, " episodes"]
    plans_over_reach: Int[np.ndarray, " episodes"]
    tracked_steps: Int[np.ndarray, " episodes"]
    tracking: Float[np.ndarray, " episodes"]
    off_path: Float[np.ndarray, " episodes"]
    prefixes_crossing: Int[np.ndarray, " episodes"] | None = None
    plans_crossing: Int[np.ndarray, " episodes"] | None = None
    followed_crossing: Int[np.ndarray, " episodes"] | None = None

    def summary(self) -> dict[str, Any]:
        """Means and shares over plans, and over executed steps; `None` for what was not measured."""
        plans, steps = int(self.plans.sum()), int(self.tracked_steps.sum())
        if not plans:
            return {"plans": 0}
        return {
            "plans": plans,
            "start_gap_mean": _weighted(self.start_gap, self.plans),
            "start_gap_max": float(np.nanmax(self.start_gap_max)),
            "largest_step": float(np.nanmax(self.largest_step)),
            "plans_over_reach": int(self.plans_over_reach.sum()) / plans,
            "tracked_steps": steps,
            "tracking_mean": _weighted(self.tracking, self.tracked_steps),
            "off_path_mean": _weighted(self.off_path, self.tracked_steps),
            "executed_prefixes_crossing": _share(self.prefixes_crossing, plans),
            "followed_parts_crossing": _share(self.followed_crossing, plans),
            "whole_plans_crossing": _share(self.plans_crossing, plans),
        }


def feasibility(
    plans: Sequence[Planned],
    positions: Float[np.ndarray, "episodes steps 2"],
    ends: Int[np.ndarray, " episodes"],
    *,
    walls: Walls | None = None,
    reach: float = REACH,
) -> Feasibility:
    """Measures all plans of an evaluation.

    `positions[e, s]` is where episode `e` was after `s` steps, `ends[e]` the steps after which nothing of a plan was
    executed any more, `reach` the move that physics allows along an axis in one step. Plans of an episode that was over
    when they were made do not count.
    """
    count = len(positions)
    found = _Sums.empty(count, walls is not None)
    for group in _groups(plans, ends):
        found.add_points(group, positions, reach)
        tracked = found.add_tracking(group, positions)
        if walls is not None:
            found.add_crossings(tracked, walls)
    return found.feasibility()


@dataclass(frozen=True)
class _Group:
    """Plans with the same number of points and the same stride."""

    stride: int
    episode: Int[np.ndarray, " b"]
    step: Int[np.ndarray, " b"]
    until: Int[np.ndarray, " b"]
    points: Float[np.ndarray, "b points 2"]
    followed: Int[np.ndarray, " b"]
    """How many segments of each plan the body came along: known once it was tracked."""

    def executed(self) -> Int[np.ndarray, " b"]:
        """Segments of each plan's executed prefix."""
        return np.minimum(-((self.step - self.until) // self.stride), self.points.shape[1] - 1)

    def part(self, chosen: slice | np.ndarray) -> _Group:
        """Some of the plans."""
        parts = (self.episode, self.step, self.until, self.points, self.followed)
        return _Group(self.stride, *(array[chosen] for array in parts))

    def chunks(self, cost: int) -> list[_Group]:
        """The same in parts of at most `CHUNK` entries, where a plan has `cost`."""
        size = max(1, CHUNK // max(cost, 1))
        return [self.part(slice(i, i + size)) for i in range(0, len(self.step), size)]


def _groups(plans: Sequence[Planned], ends: Int[np.ndarray, " episodes"]) -> list[_Group]:
    """All plans in force for a step at least, each with the step until which it was."""
    if not plans:
        return []
    episode = np.concatenate([plan.episodes for plan in plans]).astype(np.int64)
    step = np.concatenate([np.full(len(plan.episodes), plan.step) for plan in plans])
    until = _until(episode, step, ends)
    shapes = np.concatenate([np.tile([plan.points.shape[1], plan.stride], (len(plan.episodes), 1)) for plan in plans])
    groups = []
    for length, stride in np.unique(shapes, axis=0).tolist():
        same = (shapes == (length, stride)).all(1)
        points = np.concatenate([p.points for p in plans if (p.points.shape[1], p.stride) == (length, stride)])
        nothing = np.zeros(int(same.sum()), dtype=np.int64)
        group = _Group(stride, episode[same], step[same], until[same], points.astype(np.float64), nothing)
        groups.append(group.part(group.until > group.step))
    return groups


def _until(
    episode: Int[np.ndarray, " b"], step: Int[np.ndarray, " b"], ends: Int[np.ndarray, " episodes"]
) -> Int[np.ndarray, " b"]:
    """The step of the episode's next plan, or its end. Of several plans made at one step the last is in force."""
    order = np.lexsort((step, episode))
    after = np.full(len(order), np.iinfo(np.int64).max)
    following = episode[order][1:] == episode[order][:-1]
    after[:-1][following] = step[order][1:][following]
    until = np.empty(len(order), dtype=np.int64)
    until[order] = np.minimum(after, ends[episode[order]])
    return until


@dataclass
class _Sums:
    """Sums over the plans of each episode, as they come in."""

    plans: np.ndarray
    gap: np.ndarray
    gap_max: np.ndarray
    step_max: np.ndarray
    over: np.ndarray
    steps: np.ndarray
    tracking: np.ndarray
    off_path: np.ndarray
    prefixes: np.ndarray | None
    wholes: np.ndarray | None
    followed: np.ndarray | None

    @classmethod
    def empty(cls, count: int, walls: bool) -> _Sums:
        def number() -> np.ndarray:
            return np.zeros(count)

        def whole() -> np.ndarray:
            return np.zeros(count, dtype=np.int64)

        crossings = (whole(), whole(), whole()) if walls else (None, None, None)
        return cls(whole(), number(), number(), number(), whole(), whole(), number(), number(), *crossings)

    def add_points(self, group: _Group, positions: np.ndarray, reach: float) -> None:
        """Start consistency, and the largest step against what physics allows."""
        gap = np.linalg.norm(group.points[:, 0] - positions[group.episode, group.step], axis=-1)
        moves = np.abs(np.diff(group.points, axis=1)).max(axis=(1, 2), initial=0.0)
        np.add.at(self.plans, group.episode, 1)
        np.add.at(self.gap, group.episode, gap)
        np.maximum.at(self.gap_max, group.episode, gap)
        np.maximum.at(self.step_max, group.episode, moves)
        np.add.at(self.over, group.episode, moves > reach * group.stride)

    def add_tracking(self, group: _Group, positions: np.ndarray) -> _Group:
        """The executed positions against the plan in force: at that time, and at its nearest point. Returns the plans
        with how far each was followed.
        """
        spans = group.until - group.step
        followed = [group.followed[:0]]
        for part in group.chunks(int(spans.max(initial=0)) * group.points.shape[1]):
            spans = part.until - part.step
            plan = np.repeat(np.arange(len(spans)), spans)
            since = np.arange(len(plan)) - np.repeat(np.cumsum(spans) - spans, spans) + 1
            there = positions[part.episode[plan], part.step[plan] + since]
            np.add.at(self.steps, part.episode, spans)
            np.add.at(self.tracking, part.episode[plan], _distance(there, _at(part, plan, since)))
            off, segment = _to_path(there, part.points[plan])
            np.add.at(self.off_path, part.episode[plan], off)
            furthest = np.zeros(len(spans), dtype=np.int64)
            np.maximum.at(furthest, plan, segment + 1)
            followed.append(furthest)
        return replace(group, followed=np.concatenate(followed))

    def add_crossings(self, group: _Group, walls: Walls) -> None:
        """Plans with a segment that meets a wall: in the executed prefix, in the followed part, and anywhere."""
        segments = group.points.shape[1] - 1
        if self.prefixes is None or self.wholes is None or self.followed is None or not segments:
            return
        for part in group.chunks(segments):
            a, b = part.points[:, :-1].reshape(-1, 2), part.points[:, 1:].reshape(-1, 2)
            crossing = walls.crosses(a, b).reshape(-1, segments)
            prefix = np.arange(segments) < part.executed()[:, None]
            came = np.arange(segments) < part.followed[:, None]
            np.add.at(self.prefixes, part.episode, (crossing & prefix).any(1))
            np.add.at(self.followed, part.episode, (crossing & came).any(1))
            np.add.at(self.wholes, part.episode, crossing.any(1))

    def feasibility(self) -> Feasibility:
        """The means of the sums."""
        none = self.plans == 0
        return Feasibility(
            plans=self.plans,
            start_gap=_ratio(self.gap, self.plans),
            start_gap_max=np.where(none, np.nan, self.gap_max),
            largest_step=np.where(none, np.nan, self.step_max),
            plans_over_reach=self.over,
            tracked_steps=self.steps,
            tracking=_ratio(self.tracking, self.steps),
            off_path=_ratio(self.off_path, self.steps),
            prefixes_crossing=self.prefixes,
            plans_crossing=self.wholes,
            followed_crossing=self.followed,
        )


def _at(group: _Group, plan: Int[np.ndarray, " n"], since: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    """Where a plan has the body so many steps after it was made: straight between points, then at rest at the last."""
    last = group.points.shape[1] - 1
    time = np.minimum(since / group.stride, last)
    index = np.minimum(time.astype(np.int64), max(last - 1, 0))
    a, b = group.points[plan, index], group.points[plan, np.minimum(index + 1, last)]
    return a + (time - index)[:, None] * (b - a)


def _to_path(
    there: Float[np.ndarray, "n 2"], points: Float[np.ndarray, "n points 2"]
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The distance of each position to the nearest point of its polyline, and the first segment that this is on."""
    if points.shape[1] == 1:
        return _distance(there, points[:, 0]), np.zeros(len(there), dtype=np.int64)
    a, along = points[:, :-1], np.diff(points, axis=1)
    length = (along**2).sum(-1)
    reached = ((there[:, None] - a) * along).sum(-1) / np.where(length > 0, length, 1.0)
    nearest = a + np.clip(reached, 0, 1)[..., None] * along
    square = ((there[:, None] - nearest) ** 2).sum(-1)
    segment = square.argmin(1)
    return np.sqrt(square[np.arange(len(square)), segment]), segment


def _distance(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    return np.linalg.norm(a - b, axis=-1)


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Means, nan where nothing was counted."""
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _weighted(means: np.ndarray, counts: np.ndarray) -> float | None:
    """The mean over all that was counted."""
    some = counts > 0
    return float((means[some] * counts[some]).sum() / counts[some].sum()) if some.any() else None


def _share(counts: np.ndarray | None, plans: int) -> float | None:
    return None if counts is None else int(counts.sum()) / plans
