"""SIGKILL at random moments of a run: the same command goes on, and ends where an undisturbed run ends, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drilling.child import command
from drilling.scene import ALIGN, TRAIN, Scene, done, often
from drilling.trial import Trial, Verdict, apart, content

COMMANDS = {"train": (*TRAIN, "--out", "runs/mine"), "align": (*ALIGN, "--out", "runs/mine")}
TOUCHES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate")
"""What Python reports of what is done to files, just before it is done."""
OFTEN = 4
"""A run is killed this many times at most before it is left alone."""


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to."""

    seconds: float
    touches: int
    content: dict[str, str]


def touching(run: Path, count: Callable[[], object]) -> None:
    """Called in a child: `count` is called before whatever changes a file or a folder below `run`."""
    below = str(run)

    def heard(event: str, args: tuple[Any, ...]) -> None:
        if event not in TOUCHES or (event == "open" and not _writes(args)):
            return
        if any(isinstance(one, str | os.PathLike) and below in os.path.abspath(one) for one in args[:2]):
            count()

    sys.addaudithook(heard)


def _writes(args: tuple[Any, ...]) -> bool:
    flags = args[2] if len(args) > 2 and isinstance(args[2], int) else 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def undisturbed(scene: Scene, name: str, place: Path) -> Undisturbed:
    """How long it takes, how often it touches the disk, what it ends in."""
    scene.copied(place)
    run, touches = place / "runs" / "mine", place / "touches"

    def before() -> None:
        often()
        handle = os.open(touches, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        touching(run, lambda: os.write(handle, b"."))

    seconds = done(command(COMMANDS[name], place, before=before)).seconds
    return Undisturbed(seconds, len(touches.read_text()), content(run))


def trials(scene: Scene, known: dict[str, Undisturbed], count: int, seed: int) -> Iterator[Trial]:
    """`count` for each command: by turns at a moment of the clock and just before the disk is touched, spread over all
    of the run.
    """
    for name in COMMANDS:
        for number in range(count):
            rng = random.Random(f"{seed} {name} {number}")
            share = (number + rng.random()) / count
            go = _Killed(scene, name, known[name], share, by_clock=number % 2 == 0, rng=rng)
            yield Trial(f"kill:{name}:{number}", go)


@dataclass
class _Killed:
    scene: Scene
    name: str
    whole: Undisturbed
    share: float
    by_clock: bool
    rng: random.Random

    def __call__(self, place: Path) -> Verdict:
        """Kills it, once or several times, and lets it go on."""
        self.scene.copied(place)
        kills, share, times = 0, self.share, 1 + (self.rng.random() < 0.35) + (self.rng.random() < 0.2)
        for _ in range(min(times, OFTEN)):
            ran = self._killed(place, share)
            kills += ran
            share = self.rng.random()
        last = command(COMMANDS[self.name], place, before=often)
        counts = {"kills": kills, "missed": times - kills, "again": max(kills - 1, 0)}
        if last.code != 0:
            return Verdict(f"after {kills} kills it ended with {last.code}: {last.last}", counts, last.err)
        odd = apart(self.whole.content, content(place / "runs" / "mine"))
        said = f"after {kills} kills it is another run than an undisturbed one: {', '.join(odd)}" if odd else ""
        return Verdict(said, counts, last.err)

    def _killed(self, place: Path, share: float) -> bool:
        """Whether it was still at it."""
        if self.by_clock:
            return command(COMMANDS[self.name], place, after=share * self.whole.seconds, before=often).killed
        left = [max(1, round(share * self.whole.touches))]

        def count() -> None:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        def before() -> None:
            often()
            touching(place / "runs" / "mine", count)

        return command(COMMANDS[self.name], place, before=before).killed
