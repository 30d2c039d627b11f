"""What a maze looks like: its text, its walls in the coordinates of the ball, and what meets them."""

from __future__ import annotations

import difflib
import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from kedge.errors import InputError

WALL_OFFSET = 0.2
"""Walls are centred at (row, column) minus this in joint coordinates: the ball's body is at 1.2, a wall at row + 1."""

BALL = 0.1
"""The ball's radius."""

REACH = 0.5
"""The goal is reached within this distance of it."""

MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""From a cell to its neighbours, in the order in which D4RL's controller prefers them."""

_EMPTY = "O. "
_KNOWN: dict[str, tuple[str, int, tuple[float, float]]] = {
    "umaze": ("#####/#GOO#/###O#/#OOO#/#####", 300, (23.85, 161.86)),
    "medium": (
        "########/#OO##OO#/#OO#OOO#/##OOO###/#OO#OOO#/#O#OO#O#/#OOO#OG#/########",
        600,
        (13.13, 277.39),
    ),
    "large": (
        "############/#OOOO#OOOOO#/#O##O#O#O#O#/#OOOOOO#OOO#/#O####O###O#/#OO#O#OOOOO#/##O#O#O#O###/#OO#OOO#OGO#/"
        + "#" * 12,
        800,
        (6.7, 273.99),
    ),
}

Cell = tuple[int, int]

Box = tuple[float, float, float, float]
"""x from, y from, x to, y to."""

THINNEST = 0.1
"""No drawn wall is thinner: a ball that moves by 0.05 in a step cannot pass one."""


@dataclass(frozen=True)
class Layout:
    """A maze as rows of text: `#` is wall, `O`, `.` or a space is free, `G` is the free cell with the goal.

    Positions (x, y) are those of the ball's two joints: x runs over rows, y over columns. The integer point (row,
    column) lies in its cell, but not in the middle of it: the cell reaches from -0.7 to +0.3 around it on both axes.

    Args:
        name: what the maze is called in names of tasks.
        rows: the text, a string for each row.
        at: the goal's (x, y) where it is not the `G` cell.
        steps: an episode's length; by default 50 steps for each move of the longest way to the goal, at least 100.
        references: the returns that score 0 and 100; without them 0 is never at the goal, 100 is always.
        drawn: walls beside those of the text, anywhere: x from, y from, x to, y to. See `with_walls`.
    """

    name: str
    rows: tuple[str, ...]
    at: tuple[float, float] | None = None
    steps: int | None = None
    references: tuple[float, float] | None = None
    drawn: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        _check_text(self)
        _check_drawn(self)
        _check_goal(self)
        if self.steps is not None and self.steps < 1:
            raise InputError(f"{self.title}: an episode has at least one step, not {self.steps}")

    @staticmethod
    def known() -> tuple[str, ...]:
        """The mazes that have a name."""
        return tuple(_KNOWN)

    @classmethod
    def of(
        cls,
        what: Layout | str,
        goal: tuple[float, float] | None = None,
        horizon: int | None = None,
        name: str | None = None,
    ) -> Layout:
        """A maze by its name or by its text (rows parted by `/` or by new lines), or one that is made already.

        Args:
            what: "umaze", "medium", "large", the text of a maze, or a layout.
            goal: moves the goal to this (x, y). What is published for the maze no longer holds then; its name says so.
            horizon: another length of an episode; likewise.
            name: what to call a maze that comes as text; by default "custom-" and a hash of it.
        """
        layout = what if isinstance(what, Layout) else cls._read(what, goal, name)
        if goal is not None and not np.array_equal(layout.goal, goal):
            x, y = float(goal[0]), float(goal[1])
            layout = replace(layout, name=f"{layout.name}-goal-{x:g}-{y:g}", at=(x, y), references=None)
        if horizon is not None and horizon != layout.horizon:
            layout = replace(layout, name=f"{layout.name}-steps-{horizon}", steps=horizon, references=None)
        return layout

    @classmethod
    def _read(cls, what: str, goal: tuple[float, float] | None, name: str | None) -> Layout:
        if what in _KNOWN:
            text, steps, references = _KNOWN[what]
            return cls(what, tuple(text.split("/")), None, steps, references)
        if "#" not in what and "/" not in what and "\n" not in what:
            near = difflib.get_close_matches(what, _KNOWN, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"no maze is called {what!r}; {hint}known are {', '.join(_KNOWN)}, or give its rows of #, O, G"
            )
        rows = tuple(row.rstrip("\r") for row in what.strip("/\n\r").replace("/", "\n").split("\n"))
        at = None if goal is None or "G" in what else (float(goal[0]), float(goal[1]))
        return cls(name or f"custom-{hashlib.sha256('/'.join(rows).encode()).hexdigest()[:8]}", rows, at)

    def with_walls(self, boxes: Sequence[Sequence[float | int]]) -> Layout:
        """The same maze with these walls as well, in joint coordinates, in place of any that were drawn before. They
        stop the ball, and may cut places off from the goal. What is published for the maze no longer holds; its name
        says so.
        """
        drawn = tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in boxes)
        name = self.name.partition("-walls-")[0]
        if not drawn:
            return replace(self, name=name, drawn=())
        mark = hashlib.sha256(repr(drawn).encode()).hexdigest()[:8]
        return replace(self, name=f"{name}-walls-{mark}", drawn=drawn, references=None)

    def opened(self, cells: Sequence[Cell]) -> Layout:
        """The same maze without the walls of these cells; its border stays closed. What is published for the maze no
        longer holds; its name says so.
        """
        rows = [list(row) for row in self.rows]
        for r, c in cells:
            if not (0 < r < len(rows) - 1 and 0 < c < len(rows[0]) - 1):
                raise InputError(f"{self.title}: its border stays closed, at row {r + 1} column {c + 1}")
            if not self.walls[r, c]:
                raise InputError(f"{self.title}: there is no wall to open at row {r + 1} column {c + 1}")
            rows[r][c] = "O"
        if not cells:
            return self
        mark, name = hashlib.sha256(repr(sorted(cells)).encode()).hexdigest()[:8], self.name.partition("-walls-")[0]
        opened = replace(self, name=f"{name}-open-{mark}", rows=tuple(map("".join, rows)), references=None)
        return opened.with_walls(self.drawn)

    def around(self, cell: Cell) -> Box:
        """A cell in joint coordinates."""
        r, c = cell
        low = 0.5 + WALL_OFFSET
        return r - low, c - low, r - low + 1, c - low + 1

    @property
    def title(self) -> str:
        """For messages."""
        return f"maze {self.name!r}"

    @cached_property
    def walls(self) -> Bool[np.ndarray, "rows columns"]:
        """Where the walls are."""
        return np.array([[mark == "#" for mark in row] for row in self.rows])

    @cached_property
    def cell(self) -> Cell:
        """The cell that holds the goal."""
        if self.at is not None:
            return self.cell_of(self.at)
        return next((r, row.index("G")) for r, row in enumerate(self.rows) if "G" in row)

    @cached_property
    def goal(self) -> Float[np.ndarray, " 2"]:
        """The goal in joint coordinates."""
        return np.array(self.cell if self.at is None else self.at, dtype=float)

    @cached_property
    def free(self) -> tuple[Cell, ...]:
        """The cells without wall: first the empty ones, row by row, then the one marked `G`. Where walls are drawn,
        those in which an episode can begin.
        """
        marks = [(mark, (r, c)) for r, row in enumerate(self.rows) for c, mark in enumerate(row)]
        free = [cell for mark, cell in marks if mark in _EMPTY] + [cell for mark, cell in marks if mark == "G"]
        if self.drawn:  # an episode begins up to 0.1 from a cell's point, on each axis
            free = [cell for cell in free if not self.blocked(np.array(cell, float), BALL + 0.1 * 2**0.5)]
        return tuple(free)

    @cached_property
    def horizon(self) -> int:
        """The steps of an episode."""
        return self.steps if self.steps is not None else max(100, 50 * max(self.moves_to(self.cell).values()))

    @cached_property
    def boxes(self) -> Float[np.ndarray, "walls 4"]:
        """The wall of each wall cell in joint coordinates: x from, y from, x to, y to; then those that are drawn."""
        corners = np.argwhere(self.walls) - WALL_OFFSET
        return np.concatenate([np.concatenate([corners - 0.5, corners + 0.5], 1), self._drawn])

    @cached_property
    def _drawn(self) -> Float[np.ndarray, "walls 4"]:
        return np.array(self.drawn, dtype=float).reshape(-1, 4)

    @cached_property
    def blocks(self) -> Float[np.ndarray, "blocks 4"]:
        """The same in fewer boxes: runs along a row, those that repeat in the next row together; then the drawn."""
        closed: list[tuple[int, int, int, int]] = []
        growing: dict[tuple[int, int], int] = {}
        for r in range(len(self.rows) + 1):
            runs = _runs(self.walls[r]) if r < len(self.rows) else set()
            closed += [(first, a, r, b) for (a, b), first in growing.items() if (a, b) not in runs]
            growing = {run: growing.get(run, r) for run in runs}
        return np.concatenate([np.array(sorted(closed), dtype=float) - 0.5 - WALL_OFFSET, self._drawn])

    def cell_of(self, point: tuple[float, float] | Float[np.ndarray, " 2"]) -> Cell:
        """The cell around a point."""
        r, c = np.floor(np.asarray(point, dtype=float) + (0.5 + WALL_OFFSET)).astype(int)
        return int(r), int(c)

    def moves_to(self, goal: Cell) -> dict[Cell, int]:
        """How many moves from cell to neighbouring cell lead to `goal`, for each cell from which they do. A drawn wall
        is in the way where a ball that goes straight from one cell's point to the other's meets it.
        """
        moves = {goal: 0}
        queue = deque([goal])
        while queue:
            r, c = queue.popleft()
            for near in ((r + i, c + j) for i, j in MOVES):
                if near not in moves and self.joined((r, c), near):
                    moves[near] = moves[r, c] + 1
                    queue.append(near)
        return moves

    def joined(self, a: Cell, b: Cell) -> bool:
        """Whether a ball gets straight from one free cell's point to that of a neighbour."""
        ends = np.array([a], dtype=float), np.array([b], dtype=float)
        around = [(x0 - BALL, y0 - BALL, x1 + BALL, y1 + BALL) for x0, y0, x1, y1 in self.drawn]
        return not self.walls[b] and not any(bool(_meets(*ends, box)) for box in around)

    def blocked(self, points: Float[np.ndarray, "*n 2"], inflated: float = 0.0) -> Bool[np.ndarray, "*n"]:
        """Whether a point lies in a wall, or nearer to one than `inflated` (the ball's radius, say)."""
        x, y = points[..., 0], points[..., 1]
        met = np.zeros(x.shape, bool)
        for x0, y0, x1, y1 in self.blocks:
            dx = np.maximum(np.maximum(x0 - x, x - x1), 0)
            dy = np.maximum(np.maximum(y0 - y, y - y1), 0)
            met |= dx * dx + dy * dy <= inflated * inflated
        return met

    def crosses(
        self, a: Float[np.ndarray, "*#n 2"], b: Float[np.ndarray, "*#n 2"], inflated: float = 0.0
    ) -> Bool[np.ndarray, ...]:
        """Whether the straight line from a to b meets a wall, or comes nearer to one than `inflated` (both broadcast).

        A wall blown up by a radius is its box made longer, its box made wider, and a disc at each corner.
        """
        a, b = np.broadcast_arrays(np.asarray(a, float), np.asarray(b, float))
        shape = a.shape[:-1]
        a, b = a.reshape(-1, 2), b.reshape(-1, 2)
        r, met = inflated, np.zeros(len(a), bool)
        for x0, y0, x1, y1 in self.blocks:
            met |= _meets(a, b, (x0 - r, y0, x1 + r, y1))
            if r > 0:
                met |= _meets(a, b, (x0, y0 - r, x1, y1 + r))
                for corner in ((x0, y0), (x0, y1), (x1, y0), (x1, y1)):
                    met |= _passes(a, b, np.array(corner), r)
        return met.reshape(shape)


def _runs(row: Bool[np.ndarray, " n"]) -> set[tuple[int, int]]:
    """From where to where a row is wall."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(np.int8)))
    return {(int(a), int(b)) for a, b in edges.reshape(-1, 2)}


def _meets(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "n 2"], box: Box) -> Bool[np.ndarray, " n"]:
    """Whether a + s (b - a), 0 <= s <= 1, is in the box for some s: the slab test, per axis an interval of s."""
    s_in, s_out = np.zeros(len(a)), np.ones(len(a))
    for axis in (0, 1):
        p, d = a[:, axis], b[:, axis] - a[:, axis]
        with np.errstate(divide="ignore", invalid="ignore"):
            s0, s1 = (box[axis] - p) / d, (box[axis + 2] - p) / d
        still = d == 0  # there is no crossing to speak of: inside the slab all along, or never
        inside = (box[axis] <= p) & (p <= box[axis + 2])
        s_in = np.maximum(s_in, np.where(still, np.where(inside, 0.0, np.inf), np.minimum(s0, s1)))
        s_out = np.minimum(s_out, np.where(still, 1.0, np.maximum(s0, s1)))
    return s_in <= s_out


def _passes(
    a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "n 2"], corner: Float[np.ndarray, " 2"], radius: float
) -> Bool[np.ndarray, " n"]:
    """Whether the line from a to b comes as near to a point as the radius."""
    d, p = b - a, corner - a
    length = np.maximum((d * d).sum(1), np.finfo(float).tiny)
    s = np.clip((d * p).sum(1) / length, 0, 1)
    return ((p - s[:, None] * d) ** 2).sum(1) <= radius * radius


def _check_text(layout: Layout) -> None:
    rows = layout.rows
    if not any(rows):
        raise InputError(f"{layout.title} is empty: give its rows of #, O and G")
    for r, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise InputError(
                f"{layout.title}: row {r + 1} has {len(row)} cells, row 1 has {len(rows[0])}; make them equal"
            )
        for c, mark in enumerate(row):
            if mark not in f"#G{_EMPTY}":
                raise InputError(
                    f"{layout.title}: row {r + 1} column {c + 1} is {mark!r}; use # for wall, O for free, G"
                )
            if mark != "#" and (r in (0, len(rows) - 1) or c in (0, len(row) - 1)):
                raise InputError(f"{layout.title} has an open border at row {r + 1} column {c + 1}; put a # there")
    goals = sum(row.count("G") for row in rows)
    if goals > 1:
        raise InputError(f"{layout.title} has {goals} goals; leave one G")
    if goals == 0 and layout.at is None:
        raise InputError(f"{layout.title} has no goal; mark one free cell with G, or give goal=(x, y)")


def _check_drawn(layout: Layout) -> None:
    for box in layout.drawn:
        x0, y0, x1, y1 = box
        if not (np.isfinite(box).all() and x1 - x0 >= THINNEST and y1 - y0 >= THINNEST):
            raise InputError(
                f"{layout.title}: a drawn wall is (x from, y from, x to, y to), at least {THINNEST:g} wide and long; "
                f"got {box}"
            )


def _check_goal(layout: Layout) -> None:
    if layout.at is not None:
        edge = np.array(layout.walls.shape) - 0.5 - WALL_OFFSET
        if not bool(((layout.goal > -0.5 - WALL_OFFSET) & (layout.goal < edge)).all()):
            raise InputError(f"{layout.title}: the goal {layout.at} lies outside the maze")
        r, c = layout.cell
        if bool(layout.blocked(layout.goal)):
            wall = f"the wall at row {r + 1} column {c + 1}" if layout.walls[r, c] else "a wall that is drawn"
            raise InputError(f"{layout.title}: the goal {layout.at} lies in {wall}; move it")
    if layout.drawn:  # who draws walls may cut the goal off
        return
    reached = layout.moves_to(layout.cell)
    lost = [cell for cell in layout.free if cell not in reached]
    if lost:
        r, c = lost[0]
        raise InputError(
            f"{layout.title} has no way to the goal from row {r + 1} column {c + 1} and {len(lost) - 1} other cells; "
            "open a wall, or close those cells with #"
        )
