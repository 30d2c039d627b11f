"""A scripted expert for the kitchen: ways of the fingertips for each chore, one chore after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from kedge.envs.chores import ROBOT, Chores, done
from kedge.envs.franka import GAIN, STANDING, STEP
from kedge.envs.reaching import JOINTS, Arm, facing
from kedge.envs.task import Planned

OPEN, SHUT = 0.04, 0.0
LEAD = np.array([0.15] * 4 + [0.11] * 3)
"""How far a joint that is held up is sent beyond where it is: what its motor can make of it."""

TRIES = 3
"""How often a chore is begun before the cook gives it up."""

PACE = (0.85, 1.0)
"""The share of the joints' greatest speeds at which an episode's cook works."""

STREAM = 0x434F4F4B
"""Sets the cook's random numbers apart from those of an episode with the same seed."""

HINGES = {"microwave": (-1.128, 0.455), "hinge cabinet": (-0.224, 0.71)}
"""(x, y) of the doors' hinges."""

Place = Callable[[Arm], Float[np.ndarray, " 3"]]
"""Where to, in a kitchen as it is imagined now."""


@dataclass(frozen=True)
class Move:
    """A way of the fingertips. It is over when they are near, when something has come about, or when its time is up.

    Args:
        there: where to.
        near: metres from there that are near enough.
        fingers: where each finger is.
        speed: metres a second.
        until: whether it has come about, given the positions that are seen.
        steps: its time.
        rest: steps to stay once near.
        facing: how far down and to the left the hand points.
        fixed: whether the place is that of the move's beginning.
    """

    there: Place
    near: float = 0.03
    fingers: float = SHUT
    speed: float = 0.6
    until: Callable[[Float[np.ndarray, " 30"]], bool] | None = None
    steps: int = 60
    rest: int = 0
    facing: tuple[float, float] = (0.0, 0.0)
    fixed: bool = False


Script = Callable[[np.random.Generator], list[Move]]


def beside(site: str, x: float, y: float, z: float) -> Place:
    """A place beside a marked point, wherever that is now."""
    offset = np.array([x, y, z])
    return lambda arm: arm.site(site) + offset


def swung(site: str, chore: str, angle: float) -> Place:
    """Where a marked point of a door comes when the door swings on by an angle."""
    hinge, c, s = np.array([*HINGES[chore], 0.0]), np.cos(angle), np.sin(angle)

    def place(arm: Arm) -> Float[np.ndarray, " 3"]:
        x, y, z = arm.site(site) - hinge
        return hinge + np.array([c * x - s * y, s * x + c * y, z])

    return place


def back(by: float) -> Move:
    """Away from the kitchen, and not for long."""
    return Move(lambda arm: arm.tip - np.array([0.0, by, 0.0]), near=by / 2, steps=8, fixed=True)


def microwave(rng: np.random.Generator) -> list[Move]:
    """Takes the handle and pulls it round the hinge."""
    far, site, way = -rng.uniform(0.62, 0.72), "microhandle_site", (0.4, 0.2)
    return [
        Move(beside(site, 0.0, -0.09, 0.0), fingers=OPEN, facing=way),
        Move(beside(site, 0.0, 0.015, 0.0), near=0.012, fingers=OPEN, speed=0.4, facing=way),
        Move(beside(site, 0.0, 0.015, 0.0), rest=3, facing=way),
        Move(swung(site, "microwave", -0.25), near=0.0, speed=0.3, until=lambda p: p[22] < far, steps=40, facing=way),
        Move(beside(site, 0.03, -0.10, 0.0), fingers=OPEN, steps=20, facing=way),
    ]


def kettle(rng: np.random.Generator) -> list[Move]:
    """Pushes it back over the stove, low down."""
    far, z, way = rng.uniform(0.60, 0.66), 1.70 + rng.uniform(-0.005, 0.005), (0.4, 0.0)

    def before(y: float) -> Place:
        return lambda arm: np.array([*(arm.site("kettle_site")[:2] - (0.0, y)), z])

    return [
        Move(before(0.20), facing=way),
        Move(before(0.06), near=0.0, speed=0.35, until=lambda p: p[24] > far, steps=50, facing=way),
        back(0.2),
    ]


def light(rng: np.random.Generator) -> list[Move]:
    """Pushes the switch to the left."""
    z = 2.28 + rng.uniform(-0.01, 0.01)

    def at(x: float, y: float) -> Place:
        return lambda _: np.array([x, y, z])

    return [
        Move(at(-0.30, 0.53)),
        Move(at(-0.30, 0.61), near=0.02),
        Move(at(-0.50, 0.62), speed=0.4, until=lambda p: p[17] < -0.6, steps=25),
        back(0.15),
    ]


def slide(rng: np.random.Generator) -> list[Move]:
    """Pushes the handle to the right."""
    far, site = rng.uniform(0.25, 0.35), "slide_site"
    return [
        Move(beside(site, -0.08, -0.07, 0.0)),
        Move(beside(site, -0.07, 0.02, 0.0), near=0.02),
        Move(beside(site, 0.08, 0.02, 0.0), near=0.0, speed=0.5, until=lambda p: p[19] > far, steps=30),
        back(0.15),
    ]


def knob(site: str, joint: int) -> Script:
    """Pushes the upper end of a knob to the right with all that the arm has: it turns as if in honey."""

    def moves(rng: np.random.Generator) -> list[Move]:
        far, z = -rng.uniform(0.8, 1.0), 0.038 + rng.uniform(-0.002, 0.002)

        def on(across: float, y: float, up: float, share: float) -> Place:
            def place(arm: Arm) -> Float[np.ndarray, " 3"]:
                angle = -share * arm.position(joint)
                c, s = np.cos(angle), np.sin(angle)
                return arm.site(site) + np.array([up * s + across * c, y, up * c - across * s])

            return place

        return [
            Move(on(-0.075, -0.07, z, 1.0)),
            Move(on(-0.06, 0.01, z, 1.0), near=0.012, steps=20),
            Move(on(0.2, 0.01, z + 0.01, 0.5), near=0.0, speed=0.5, until=lambda p: p[joint] < far, steps=20),
            back(0.12),
        ]

    return moves


def hinge(rng: np.random.Generator) -> list[Move]:
    """Takes the right door's handle, pulls, goes round the door's edge, and pushes from within."""
    far, site, way, straight = rng.uniform(1.25, 1.35), "hinge_site2", (0.0, 0.4), (0.0, 0.2)

    def door(along: float, within: float, ahead: float = 0.0) -> Place:
        def place(arm: Arm) -> Float[np.ndarray, " 3"]:
            angle = arm.position(21) + ahead
            c, s = np.cos(angle), np.sin(angle)
            x, y = HINGES["hinge cabinet"]
            return np.array([x - c * along - s * within, y - s * along + c * within, 2.6])

        return place

    return [
        Move(beside(site, 0.03, -0.09, 0.0), fingers=OPEN, facing=way),
        Move(beside(site, -0.01, 0.03, 0.0), near=0.012, fingers=OPEN, speed=0.4, facing=way),
        Move(beside(site, -0.01, 0.03, 0.0), rest=2, facing=way),
        Move(
            swung(site, "hinge cabinet", 0.25),
            near=0.0,
            speed=0.25,
            until=lambda p: p[21] > 0.5,
            steps=25,
            facing=(0.0, 0.7),
        ),
        Move(door(0.33, -0.24), near=0.04, fingers=OPEN, steps=12, facing=way),
        Move(door(0.47, -0.14), near=0.04, steps=15, facing=straight),
        Move(door(0.43, 0.06), steps=20, facing=straight),
        Move(door(0.30, 0.05, 0.3), near=0.0, until=lambda p: p[21] > far, steps=40),
        back(0.15),
    ]


SCRIPTS: dict[str, Script] = {
    "microwave": microwave,
    "kettle": kettle,
    "light switch": light,
    "slide cabinet": slide,
    "bottom burner": knob("knob2_site", 11),
    "top burner": knob("knob4_site", 15),
    "hinge cabinet": hinge,
}


@dataclass
class _Episode:
    """How far a cook has come."""

    rng: np.random.Generator
    chores: list[str]
    pace: float
    tries: int = 0
    q: Float[np.ndarray, " 7"] = field(default_factory=lambda: STANDING[:JOINTS].copy())
    moves: list[Move] = field(default_factory=list)
    made: int = 0
    rested: int = 0
    place: Float[np.ndarray, " 3"] | None = None

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return not self.chores


class Cook:
    """Does chores in order, from what is seen alone: where things are without the noise it never gets to know.

    Its fingertips follow straight ways, drawn a little differently for each chore. What it asks of a joint is where the
    way wants it, and what gravity and damping would hold back, seen from where the joint was seen. A chore that was not
    done is begun again.

    Args:
        chores: in the order in which they are done: the set of a kitchen, or any.
    """

    def __init__(self, chores: Chores | str | Sequence[str]) -> None:
        self.chores = Chores.of(chores)
        self.plans: list[Planned] = []
        self._arm = Arm()
        self._episodes: list[_Episode] = []

    def reset(self, seeds: Sequence[int]) -> None:
        """Begins an episode for each seed."""
        self.send([self.chores.which] * len(seeds), seeds)

    def send(self, chores: Sequence[Sequence[str]], seeds: Sequence[int]) -> None:
        """Begins an episode for each seed, each with chores of its own."""
        rngs = [np.random.default_rng([STREAM, int(seed)]) for seed in seeds]
        self._episodes = [_begun(some, rng) for some, rng in zip(chores, rngs, strict=True)]

    def send_one(self, episode: int, chores: Sequence[str], rng: np.random.Generator) -> None:
        """Begins one episode anew; the others go on."""
        self._episodes[episode] = _begun(chores, rng)

    @property
    def finished(self) -> Bool[np.ndarray, " n"]:
        """Which episodes have nothing left to do."""
        return np.array([episode.finished for episode in self._episodes], bool)

    def act(
        self, observations: Float[np.ndarray, "n 60"], active: Bool[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, "n 9"]:
        """The action of each."""
        actions = np.zeros((len(observations), ROBOT))
        for i, (episode, seen) in enumerate(zip(self._episodes, observations, strict=True)):
            if active is None or active[i]:
                actions[i] = self._act(episode, seen[: len(STANDING)])
        return actions

    def _act(self, episode: _Episode, seen: Float[np.ndarray, " 30"]) -> Float[np.ndarray, " 9"]:
        arm, imagined = self._arm, seen.copy()
        imagined[:JOINTS] = episode.q
        arm.imagine(imagined)
        move, step = self._move(episode, seen), np.zeros(ROBOT)
        if move is not None:
            step[:JOINTS] = arm.toward(self._there(episode, move), facing(*move.facing), move.speed, episode.pace)
        drive = arm.drive(imagined[:ROBOT] + step, step)
        drive[JOINTS:] = SHUT if move is None else move.fingers
        # The joints that were imagined run ahead of an arm that is held up, and so push, but not without end.
        episode.q = np.clip(episode.q + step[:JOINTS], seen[:JOINTS] - LEAD, seen[:JOINTS] + LEAD)
        return np.clip((drive - seen[:ROBOT]) / (GAIN * STEP), -1.0, 1.0)

    def _move(self, episode: _Episode, seen: Float[np.ndarray, " 30"]) -> Move | None:
        """What is to be done now; None when all is done."""
        while episode.chores:
            if not episode.moves:
                self._begin(episode, SCRIPTS[episode.chores[0]](episode.rng))
                episode.tries += 1
            move = episode.moves[0]
            episode.made += 1
            if not self._over(episode, move, seen):
                return move
            self._begin(episode, episode.moves[1:])
            if not episode.moves and (bool(done(episode.chores[0], seen[None])[0]) or episode.tries == TRIES):
                episode.chores, episode.tries = episode.chores[1:], 0
        return None

    def _begin(self, episode: _Episode, moves: list[Move]) -> None:
        """Goes on with the first of these moves."""
        episode.moves, episode.made, episode.rested = moves, 0, 0
        episode.place = moves[0].there(self._arm) if moves and moves[0].fixed else None

    def _there(self, episode: _Episode, move: Move) -> Float[np.ndarray, " 3"]:
        return move.there(self._arm) if episode.place is None else episode.place

    def _over(self, episode: _Episode, move: Move, seen: Float[np.ndarray, " 30"]) -> bool:
        if (move.until is not None and move.until(seen)) or episode.made > move.steps:
            return True
        episode.rested += bool(np.linalg.norm(self._there(episode, move) - self._arm.tip) <= move.near)
        return episode.rested > move.rest


def _begun(chores: Sequence[str], rng: np.random.Generator) -> _Episode:
    return _Episode(rng, list(chores), float(rng.uniform(*PACE)))
