"""The quickest way to a maze's goal: a backward search over all positions and velocities."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from kedge.envs.demonstrations import cache_folder, fingerprint
from kedge.envs.layout import BALL, REACH, WALL_OFFSET, Layout
from kedge.envs.maze2d import Maze2D
from kedge.envs.model import TIMESTEP

SPEED = 5.24
"""The most that an axis moves in a second: a velocity is cut to 5 and one step of thrust comes on top."""

THRUST = 100 / (1000 * 4 / 3 * np.pi * BALL**3)
"""Acceleration at full thrust: the motor's gear over the ball's mass. Damping takes a twentieth of it at most."""

FORMAT = 1
"""Counts up whenever the same settings give other numbers."""

_PARTS = 4
"""A stage is looked at in so many places: for walls, and for the goal. The map of the walls is as much finer."""


@dataclass(frozen=True)
class TimeOptimal:
    """The least number of steps from every state of a lattice to the goal, by a backward search from the goal.

    The ball is a double integrator on each axis, |v| <= 5.24, a in {-A, 0, A}, that keeps its radius from the walls.
    With N levels of speed a stage lasts tau = 5.24 / (N A); then velocities are k A tau, |k| <= N, and positions i d
    with d = A tau^2 / 2: a stage takes (i, k) to (i + 2k + u, k + u), u in {-1, 0, 1}. Every stage of every state that
    can reach the goal is looked at, each in four places along its way, so the answer is exact on the lattice.

    Finer lattices find slightly quicker ways; from N = 3 on their scores lie within a point and a half. What no lattice
    knows: damping, which costs time, and the walls as brakes. To stop at one, a ball has to leave the short way round
    the corner, so there is nothing in it in D4RL's mazes.

    Args:
        layout: the maze.
        levels: N. Time and memory grow with its sixth power: about a second and 30 MB at 4 in the large maze.
    """

    layout: Layout
    levels: int = 4

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ValueError(f"TimeOptimal: a lattice has at least one level of speed, not {self.levels}")

    @property
    def stage(self) -> float:
        """tau, in seconds."""
        return SPEED / (self.levels * THRUST)

    @property
    def spacing(self) -> float:
        """d, in metres."""
        return THRUST * self.stage**2 / 2

    @cached_property
    def seconds(self) -> Float32[np.ndarray, "x y vx vy"]:
        """Seconds to the goal from each state of the lattice; infinite where it cannot be reached without a hit."""
        return _search(_Lattice(self.layout, self.levels, self.spacing, self.stage))

    def steps(self, states: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n"]:
        """The steps after which the goal is first reached, from the lattice's nearest state; 1 where one is there."""
        top = np.array(self.seconds.shape) - 1
        place = np.rint((states[..., :2] + 0.5 + WALL_OFFSET) / self.spacing)
        speed = np.rint(states[..., 2:] / (THRUST * self.stage))
        place += (place + speed) % 2  # only states with i + k even are connected to each other and searched
        index = np.clip(np.concatenate([place, speed + self.levels], -1), 0, top).astype(int)
        return np.asarray(np.maximum(np.ceil(self.seconds[tuple(np.moveaxis(index, -1, 0))] / TIMESTEP), 1.0), float)

    @cached_property
    def score(self) -> float:
        """The latched score, in the mean over the starts of an evaluation: all free cells, +-0.1 on both axes, at rest.

        Latched counts the steps from the first one at the goal to the horizon.
        """
        offsets = np.linspace(-0.09, 0.09, 7)
        starts = np.array([(r + i, c + j, 0, 0) for r, c in self.layout.free for i, j in product(offsets, offsets)])
        returns = np.maximum(self.layout.horizon + 1 - self.steps(starts), 0)
        return float(Maze2D(self.layout).score(returns).mean())


def optimal_score(
    layout: Layout, levels: int = 4, cache: str | os.PathLike[str] | Literal[False] | None = None
) -> float:
    """`TimeOptimal(layout, levels).score`, computed once and kept in the cache's folder from then on.

    Args:
        layout: the maze.
        levels: of speed.
        cache: the folder, by default `$KEDGE_CACHE` or `~/.cache/kedge`; False keeps nothing.
    """
    made = {
        "format": FORMAT,
        "maze": list(layout.rows),
        "goal": layout.goal.tolist(),
        "horizon": layout.horizon,
        "references": layout.references,
        "levels": levels,
    }
    if cache is False:
        return TimeOptimal(layout, levels).score
    path = cache_folder(cache) / f"time-optimal-{layout.name}-{fingerprint(made)}.json"
    if not path.exists():
        _keep(path, made | {"score": TimeOptimal(layout, levels).score})
    return float(json.loads(path.read_text(encoding="utf-8"))["score"])


def _keep(path: Path, what: Mapping[str, Any]) -> None:
    """Writes beside the place and moves there: a run that is killed leaves no half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    scratch.write_text(json.dumps(what), encoding="utf-8")
    scratch.replace(path)


class _Lattice:
    """The lattice of a maze: its size, where walls and goal are, its stages."""

    def __init__(self, layout: Layout, levels: int, spacing: float, stage: float) -> None:
        self.levels, self.stage = levels, stage
        extent = np.ceil(np.array(layout.walls.shape) / spacing).astype(int) + 1
        self.shape = (int(extent[0]), int(extent[1]), 2 * levels + 1, 2 * levels + 1)
        fine = [np.arange(_PARTS * (size - 1) + 1) * (spacing / _PARTS) - (0.5 + WALL_OFFSET) for size in extent]
        points = np.stack(np.meshgrid(*fine, indexing="ij"), -1)
        self.open: Bool[np.ndarray, "fx fy"] = ~layout.blocked(points, inflated=BALL)
        self.goal: Bool[np.ndarray, "fx fy"] = ((points - layout.goal) ** 2).sum(-1) <= REACH**2

    def near_goal(self) -> tuple[Int[np.ndarray, "4 n"], Bool[np.ndarray, " n"]]:
        """The states at the goal or not further from it than a stage, and which of them are at it."""
        goal = self.goal[::_PARTS, ::_PARTS]
        step, i = 2 * self.levels, np.argwhere(goal)
        near = np.zeros_like(goal)
        (x0, y0), (x1, y1) = np.maximum(i.min(0) - step, 0), i.max(0) + step + 1
        near[x0:x1, y0:y1] = self.open[::_PARTS, ::_PARTS][x0:x1, y0:y1]
        states = np.stack(np.broadcast_to(near[:, :, None, None], self.shape).nonzero())
        states = states[:, ((states[:2] + states[2:] - self.levels) % 2 == 0).all(0)]
        return states, goal[states[0], states[1]]

    def before(
        self, states: Int[np.ndarray, "4 n"]
    ) -> Iterator[tuple[Int[np.ndarray, "4 b"], Int[np.ndarray, " b"], Float[np.ndarray, " b"]]]:
        """For each thrust: the states from which a stage leads here past no wall, to which ones, and how far along the
        stage the goal is met (1 at its end, infinite where it is not).
        """
        for u in product((-1, 0, 1), repeat=2):
            thrust = np.array(u)[:, None]
            k = states[2:] - thrust  # counted from 0, so the velocity is k - levels
            moved = 2 * (k - self.levels) + thrust
            i = states[:2] - moved
            inside = ((k >= 0) & (k <= 2 * self.levels)).all(0) & (i >= 0).all(0)
            inside &= (i[0] < self.shape[0]) & (i[1] < self.shape[1])
            which = inside.nonzero()[0]
            i, k = i[:, which], k[:, which]
            free, met = self._along(i, k - self.levels, thrust)
            yield np.concatenate([i, k])[:, free], which[free], met[free]

    def _along(
        self, i: Int[np.ndarray, "2 n"], k: Int[np.ndarray, "2 n"], u: Int[np.ndarray, "2 1"]
    ) -> tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Whether stages keep clear of the walls, and the first part at whose end they are at the goal."""
        free, met = np.ones(i.shape[1], bool), np.full(i.shape[1], np.inf)
        for part in range(_PARTS, -1, -1):
            f = part / _PARTS
            x, y = _PARTS * i + np.rint(_PARTS * (2 * k * f + u * f * f)).astype(int)
            free &= self.open[x, y]
            met[self.goal[x, y]] = f
        return free, met


def _search(lattice: _Lattice) -> Float32[np.ndarray, "x y vx vy"]:
    """Stage by stage away from the goal: states up to n stages away are found from those up to n - 1 away."""
    tau = lattice.stage
    seconds = np.full(lattice.shape, np.inf, np.float32)
    flat = seconds.reshape(-1)
    here, there = lattice.near_goal()
    flat[np.ravel_multi_index(tuple(here[:, there]), lattice.shape)] = 0
    done = 0.0
    while here.size:
        left = flat[np.ravel_multi_index(tuple(here), lattice.shape)]
        found = []
        for before, after, met in lattice.before(here):
            index = np.ravel_multi_index(tuple(before), lattice.shape)
            old = flat[index]
            better = np.minimum(tau + left[after], tau * met).astype(np.float32)
            # for one thrust no state comes twice, and those of earlier rounds are as near as they can be
            flat[index] = np.where(old > done, np.minimum(old, better), old)
            found.append(before[:, (old == np.inf) & (better < np.inf)])
        here = np.concatenate(found, 1)
        done += tau
    return seconds
