"""What there is to do in the kitchen, and which four of it an episode is about."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from kedge.errors import InputError

ROBOT, OBJECTS = 9, 21
"""Positions of the arm and its two fingers, and of everything else; the observation has both and a goal for both."""

REACH = 0.3
"""A chore is done where the positions of its joints are nearer than this to their goal."""

HORIZON = 280
"""The steps of an episode."""

CHORES: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "bottom burner": ((11, 12), (-0.88, -0.01)),
    "top burner": ((15, 16), (-0.92, -0.01)),
    "light switch": ((17, 18), (-0.69, -0.05)),
    "slide cabinet": ((19,), (0.37,)),
    "hinge cabinet": ((20, 21), (0.0, 1.45)),
    "microwave": ((22,), (-0.75,)),
    "kettle": ((23, 24, 25, 26, 27, 28, 29), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
}
"""D4RL's: the places of a chore's joints among the thirty positions, and where they have to come."""

SETS: dict[str, tuple[str, ...]] = {
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}
"""D4RL's: *complete* and *partial* are the same task with other data."""


@dataclass(frozen=True)
class Chores:
    """What an episode is about.

    Args:
        name: what the task is called in names.
        which: the chores, in the order in which the return counts nothing: any order will do.
    """

    name: str
    which: tuple[str, ...]

    @classmethod
    def of(cls, what: Chores | str | Sequence[str]) -> Chores:
        """A set by its name (`partial`, `mixed`, `complete`), or any chores."""
        if isinstance(what, Chores):
            return what
        if isinstance(what, str):
            if what not in SETS:
                raise InputError(f"no kitchen is called {what!r}; known are {', '.join(SETS)}{_near(what, SETS)}")
            return cls(what, SETS[what])
        which = tuple(what)
        for chore in which:
            if chore not in CHORES:
                raise InputError(f"there is no chore {chore!r}; known are {', '.join(CHORES)}{_near(chore, CHORES)}")
        if not which or len(set(which)) < len(which):
            raise InputError(f"chores are one or more, each of them once, not {list(which)}")
        return cls("-".join(chore.replace(" ", "") for chore in which), which)

    @cached_property
    def goal(self) -> Float[np.ndarray, " 30"]:
        """What the observation says of it: zero but for the joints of its chores."""
        goal = np.zeros(ROBOT + OBJECTS)
        for chore in self.which:
            places, there = CHORES[chore]
            goal[list(places)] = there
        return goal

    def done(self, positions: Float[np.ndarray, "n 30"]) -> Bool[np.ndarray, "n chores"]:
        """Which of its chores are done where these are the positions."""
        return np.stack([done(chore, positions) for chore in self.which], 1)


def done(chore: str, positions: Float[np.ndarray, "n 30"]) -> Bool[np.ndarray, " n"]:
    """Whether a chore is done: the Euclidean distance of its joints from their goal is below 0.3."""
    places, there = CHORES[chore]
    return np.asarray(np.linalg.norm(positions[:, list(places)] - np.array(there), axis=1) < REACH)


def _near(what: str, known: Sequence[str] | dict[str, tuple]) -> str:
    near = difflib.get_close_matches(what, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
