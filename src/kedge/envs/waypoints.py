"""D4RL's waypoint controller, for many balls at once. It knows the map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from kedge.envs.layout import MOVES, Cell, Layout
from kedge.envs.task import Planned
from kedge.errors import InputError

P_GAIN, D_GAIN = 10.0, -1.0
NEAR = 0.1
"""A waypoint is passed within this distance of it, and by a ball that moved less than this in the last step."""

JITTER = 0.2
"""A waypoint lies this far at most from its cell's point, towards the middle of the cell."""

STREAM = 0x57415950
"""Sets the controller's random numbers apart from those of an episode with the same seed."""


class Routes:
    """Shortest ways from cell to cell. Among equals: the first of `MOVES`, as in D4RL."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._next: dict[Cell, dict[Cell, Cell]] = {}

    def cells(self, here: Cell, goal: Cell) -> list[Cell]:
        """The cells after `here` up to the goal; the goal alone where that is here."""
        if goal not in self._next:
            self._next[goal] = self._towards(goal)
        if here not in self._next[goal]:
            raise InputError(f"{self.layout.title}: no way leads from cell {here} to cell {goal}")
        way = [self._next[goal][here]]
        while way[-1] != goal:
            way.append(self._next[goal][way[-1]])
        return way

    def _towards(self, goal: Cell) -> dict[Cell, Cell]:
        moves = self.layout.moves_to(goal)
        onward = {goal: goal}
        for (r, c), left in moves.items():
            for near in ((r + i, c + j) for i, j in MOVES):
                if moves.get(near) == left - 1 and self.layout.joined((r, c), near):
                    onward.setdefault((r, c), near)
        return onward


class Waypoints:
    """From cell to cell towards a target: a = 10 (waypoint - position) - velocity, cut to [-1, 1].

    The waypoints are the points of the cells on a shortest way, each but the last less U(0, 0.2) on both axes. All that
    is random about a ball follows from its own seed.

    Args:
        layout: the maze. Balls go to its goal unless they are sent elsewhere.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.plans: list[Planned] = []
        self._routes = Routes(layout)
        self._rngs: list[np.random.Generator] = []
        self._new: Bool[np.ndarray, " n"] = np.zeros(0, bool)
        self._cells: list[Cell] = []
        self._shape(0)

    def _shape(self, count: int) -> None:
        """Room for the ways of so many balls: points, how far they have come, where they were."""
        self._ways = np.zeros((count, 1, 2))
        self._at: Int[np.ndarray, " n"] = np.zeros(count, int)
        self._targets, self._was = np.zeros((count, 2)), np.zeros((count, 2))

    def reset(self, seeds: Sequence[int]) -> None:
        """Begins with a ball for each seed, all on their way to the maze's goal."""
        self._rngs = [np.random.default_rng([STREAM, int(seed)]) for seed in seeds]
        self._cells = [self.layout.cell] * len(seeds)
        self._shape(len(seeds))
        self._targets[:] = self.layout.goal
        self._new = np.ones(len(seeds), bool)

    def send(self, ball: int, cell: Cell) -> None:
        """Sends a ball to a cell's point, from where it will be at the next `act`. A ball on its way there goes on."""
        if cell != self._cells[ball] or not np.array_equal(self._targets[ball], cell):
            self._cells[ball], self._targets[ball], self._new[ball] = cell, cell, True

    def draw_cell(self, ball: int) -> Cell:
        """A free cell, uniformly."""
        return self.layout.free[self._rngs[ball].integers(len(self.layout.free))]

    def act(
        self, observations: Float[np.ndarray, "n 4"], active: Bool[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, "n 2"]:
        """The thrust for each ball."""
        return self.steer(observations)[0]

    def steer(self, observations: Float[np.ndarray, "n 4"]) -> tuple[Float[np.ndarray, "n 2"], Bool[np.ndarray, " n"]]:
        """The thrust for each ball, and which of them are where they were sent."""
        x, v = observations[:, :2], observations[:, 2:]
        for ball in np.flatnonzero(self._new):
            self._plan(int(ball), x[ball])
        everyone = np.arange(len(x))
        slow = np.linalg.norm(self._was - x, axis=1) < NEAR
        solved = slow & (np.linalg.norm(self._targets - x, axis=1) < NEAR)
        waypoints = np.where(solved[:, None], self._targets, self._ways[everyone, self._at])
        actions = np.clip(P_GAIN * (waypoints - x) + D_GAIN * v, -1.0, 1.0)
        self._at += ~solved & slow & (np.linalg.norm(waypoints - x, axis=1) < NEAR)
        self._was = x.copy()
        return actions, solved

    def _plan(self, ball: int, x: Float[np.ndarray, " 2"]) -> None:
        """Draws the waypoints of a ball's way. The last one repeats to the end of the row."""
        here = (int(np.rint(x[0])), int(np.rint(x[1])))
        if self.layout.walls[here]:  # low in its cell, where rounding names the wall beside it
            here = self.layout.cell_of(x)
        way = np.array(self._routes.cells(here, self._cells[ball]), dtype=float)
        way[:-1] -= self._rngs[ball].uniform(0, JITTER, (len(way) - 1, 2))
        way[-1] = self._targets[ball]
        short = len(way) - self._ways.shape[1]
        if short > 0:
            self._ways = np.pad(self._ways, ((0, 0), (0, short), (0, 0)), mode="edge")
        self._ways[ball, : len(way)], self._ways[ball, len(way) :] = way, way[-1]
        self._at[ball], self._was[ball], self._new[ball] = 0, here, False
