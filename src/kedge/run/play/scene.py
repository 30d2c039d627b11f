"""What is on the table: the goal, what was drawn, how plans are made. Values; nothing here computes for long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from kedge.envs.layout import Box
from kedge.errors import InputError
from kedge.steer import WAYS
from kedge.walk.solvers import SolverName

Point = tuple[float, float]
Kind = Literal["wall", "zone", "gap", "way", "come", "keep"]
Stepping = SolverName | Literal["heun"]

THICK = 0.2
"""What is drawn as a box is at least so wide and so long."""
MOST = 24
"""Marks that may be drawn at once."""
FAR = 64
"""Points of a sketched way."""


@dataclass(frozen=True)
class Mark:
    """Something that was drawn.

    kind: "wall" stops the ball and bars plans; "zone" bars plans alone; "gap" is a cell of the maze without its wall;
        "way" is to be taken, "come" to be visited, "keep" to be kept away from
    box:  of walls, zones and gaps: x from, y from, x to, y to
    points: of the others, in order
    """

    id: str
    kind: Kind
    box: Box | None = None
    points: tuple[Point, ...] = ()

    @classmethod
    def of(cls, words: Any) -> Mark:
        """From what a page says; one line where it is none."""
        if not isinstance(words, Mapping):
            raise InputError("a mark is an object with id, kind and box or points")
        name: Any = words.get("id")
        kind: Any = words.get("kind")
        if not (isinstance(name, str) and 0 < len(name) <= 32):
            raise InputError("a mark has an id of 1 to 32 characters")
        if kind not in get_args(Kind):
            raise InputError(f"a mark is a {', a '.join(get_args(Kind))}; got {kind!r}")
        if kind in ("wall", "zone", "gap"):
            x0, y0, x1, y1 = numbers(words.get("box"), 4, f"the box of a {kind}")
            return cls(name, kind, _thick(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))
        points = words.get("points")
        least, most = (2, FAR) if kind == "way" else (1, 1)
        if not isinstance(points, list) or not least <= len(points) <= most:
            raise InputError(f"a mark of kind {kind} has {least} to {most} points")
        return cls(name, kind, points=tuple(point(p, f"a point of a {kind}") for p in points))

    def words(self) -> dict[str, Any]:
        """As a page says it."""
        where = {"box": list(self.box)} if self.box else {"points": [list(p) for p in self.points]}
        return {"id": self.id, "kind": self.kind, **where}


@dataclass(frozen=True)
class Settings:
    """How plans are made and how fast time passes."""

    candidates: int = 32
    steps: int = 5
    solver: Stepping = "2m"
    temperature: float = 1.0
    strength: float = 1.0
    way: str = "stochastic"
    speed: float = 0.5
    paused: bool = False

    def changed(self, name: Any, value: Any) -> Settings:
        """With one of them at another value; one line where that cannot be."""
        if name == "paused":
            if not isinstance(value, bool):
                raise InputError(f"paused is true or false, got {str(value)[:32]!r}")
            return replace(self, paused=value)
        name = name if isinstance(name, str) else ""
        if name in NAMED:
            if value not in NAMED[name]:
                raise InputError(f"{name} is one of {', '.join(NAMED[name])}; got {str(value)[:32]!r}")
            return replace(self, **{name: value})
        if name not in RANGES:
            raise InputError(f"there is no setting {name[:32]!r}; known are {', '.join((*NAMED, *RANGES))}, paused")
        low, high, whole = RANGES[name]
        if not _number(value) or not low <= value <= high or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise InputError(f"{name} is {kind} from {low:g} to {high:g}, got {str(value)[:32]}")
        return replace(self, **{name: int(value) if whole else float(value)})


NAMED: dict[str, tuple[str, ...]] = {"solver": (*get_args(SolverName), "heun"), "way": tuple(WAYS)}
"""What the settings that have names may be called. A way of `kedge.steer` is how plans come to what was sketched."""

RANGES: dict[str, tuple[float, float, bool]] = {
    "candidates": (1, 128, True),
    "steps": (1, 30, True),
    "temperature": (0.0, 2.0, False),
    "strength": (0.0, 1.0, False),
    "speed": (0.05, 4.0, False),
}
"""Least and most of each setting, and whether it is a whole number."""


@dataclass(frozen=True)
class Scene:
    """All that a plan depends on, but for where the ball is."""

    goal: Point
    marks: Mapping[str, Mark] = field(default_factory=dict)

    def boxes(self, kind: Kind) -> list[Box]:
        """Of the marks of a kind."""
        return [mark.box for mark in self.marks.values() if mark.kind == kind and mark.box is not None]

    def points(self, kind: Kind) -> list[tuple[Point, ...]]:
        """Of the marks of a kind, a tuple each."""
        return [mark.points for mark in self.marks.values() if mark.kind == kind]

    def drawn(self, mark: Mark) -> Scene:
        """With one more mark, or with another in place of the one of its name."""
        if mark.id not in self.marks and len(self.marks) >= MOST:
            raise InputError(f"there are {MOST} marks already: erase one first")
        return replace(self, marks={**self.marks, mark.id: mark})

    def erased(self, name: Any) -> Scene:
        """Without a mark; one that is not there is gone as well."""
        return replace(self, marks={key: mark for key, mark in self.marks.items() if key != name})


def point(value: Any, what: str) -> Point:
    """Two finite numbers."""
    x, y = numbers(value, 2, what)
    return x, y


def numbers(value: Any, count: int, what: str) -> list[float]:
    """So many finite numbers of a moderate size."""
    fits = isinstance(value, list) and len(value) == count and all(map(_number, value))
    if not fits or any(abs(v) > 1000 for v in value):
        raise InputError(f"{what} is {count} numbers, got {str(value)[:60]}")
    return [float(v) for v in value]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _thick(x0: float, y0: float, x1: float, y1: float) -> Box:
    """Grown to the least size around its middle."""
    dx, dy = max(THICK - (x1 - x0), 0) / 2, max(THICK - (y1 - y0), 0) / 2
    return x0 - dx, y0 - dy, x1 + dx, y1 + dy
