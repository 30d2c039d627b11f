"""One trial: training and evaluation as `kedge train` and `kedge eval` do them, in whatever process."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kedge.disk import UNREADABLE
from kedge.errors import InputError
from kedge.run.sweep.figure import By, UnknownColumnError

SAID, RUNGS, VERDICT = "log.txt", "rungs.json", "verdict.json"
"""In a trial's folder: what it has said, its figures on the way, and whether they were good enough."""
PATIENCE = 30.0
"""Seconds that a trial waits for a verdict before it goes on: the verdict may come later."""

State = Literal["finished", "pruned", "failed", "stopped", "amiss", "broken"]
"""How a trial ends. What it cannot be blamed for ends the sweep: `amiss` is something that was asked for, `broken` the
disk.
"""


@dataclass(frozen=True)
class Piece:
    """What a process needs to carry a trial out. `flags` are those of `kedge train`, its folder among them."""

    number: int
    recipe: Any
    name: str
    flags: Any
    by: By
    jobs: int
    rungs: tuple[tuple[int, float], ...] = ()

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.flags.out


@dataclass(frozen=True)
class Ending:
    """How it ended: with its figure, or with a line that says why there is none."""

    state: State
    value: float | None = None
    why: str = ""
    seconds: float = 0.0


class PrunedError(Exception):
    """The trial is not worth its end."""


def carried_out(piece: Piece) -> Ending:
    """Trains and evaluates, or goes on with that. What it says goes to a file in the run's folder."""
    begun = time.monotonic()
    if not (piece.folder.parent / "sweep.json").is_file():
        return Ending("amiss", why=f"{socket.gethostname()} does not see {piece.folder.parent}: {SHARED}")
    with _said(piece.folder):
        state, value, why = _outcome(piece)
    return Ending(state, value, why, time.monotonic() - begun)


SHARED = "the sweep's folder has to lie where all machines see it under the same path (--out)"


def _outcome(piece: Piece) -> tuple[State, float | None, str]:
    from kedge.train import CheckpointError

    try:
        value = _figure(piece)
    except PrunedError:
        return "pruned", None, ""
    except (SystemExit, KeyboardInterrupt):
        return "stopped", None, ""
    except UnknownColumnError as error:
        return "amiss", None, _line(error)
    except (CheckpointError, OSError) as error:
        return "failed" if getattr(error, "errno", 0) == errno.ENOMEM else "broken", None, _line(error)
    except InputError as error:
        return "failed", None, _line(error)
    except Exception as error:  # whatever it is, it costs this trial alone
        traceback.print_exc(file=sys.stderr)
        return "failed", None, f"{type(error).__name__}: {_line(error)}"
    if not math.isfinite(value):
        return "failed", None, f"its {piece.by.word} is not a number"
    return "finished", value, ""


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def _figure(piece: Piece) -> float:
    from kedge.run.commands.runs import task_of

    task = task_of_flags(piece.flags)
    piece.flags.carried_out(piece.recipe, piece.name, lambda training: Watch(training, piece, task))
    device = piece.flags.device
    where = task_of(piece.folder, None) if task is not None else None
    return piece.by.of_run(piece.folder, where, device, piece.jobs)


def task_of_flags(flags: Any) -> Any:
    """The environment that training is for, as `kedge train` has it."""
    from kedge.run.commands.command import environment

    return environment(flags.env or "maze2d-large", flags.goal) if flags.env or not flags.data else None


@contextlib.contextmanager
def _said(folder: Path) -> Iterator[None]:
    """Lines, warnings and tracebacks go to a file: several trials at once would talk over each other."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / SAID).open("a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


class Watch:
    """A sink that takes the figure of a training on its way, at some shares of its steps, and waits for the verdict.

    The verdict is the sweep's to make, for it knows the other trials; both are files in the run's folder.
    """

    def __init__(self, training: Any, piece: Piece, task: Any) -> None:
        self.training, self.piece, self.task = training, piece, task
        self.due: list[tuple[int, float]] = []

    def open(self, run: Path, step: int) -> None:
        """Begins, or goes on."""
        steps = self.piece.recipe.steps
        known = read_small(run / RUNGS)
        self.due = [(rung, share * steps) for rung, share in self.piece.rungs if str(rung) not in known]

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Takes the figure, if it is time to. A column that is not there is missed at the first row."""
        self.piece.by.known_in(row)
        while self.due and self.due[0][1] <= step < self.piece.recipe.steps:
            rung, _ = self.due.pop(0)
            self._ask(rung)
        if read_small(self.piece.folder / VERDICT).get("prune"):
            raise PrunedError

    def close(self) -> None:
        """Nothing to close."""

    def _ask(self, rung: int) -> None:
        from kedge.train.checkpoint import save_json

        folder = self.piece.folder
        figure = self.piece.by.of_training(self.training, self.task)
        save_json(folder / RUNGS, read_small(folder / RUNGS) | {str(rung): figure})
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and read_small(folder / VERDICT).get("judged", 0) < rung:
            time.sleep(0.02)


def read_small(path: Path) -> dict[str, Any]:
    """A JSON object of our own; nothing where it is not there, or not yet whole."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except UNREADABLE:
        return {}
    return found if isinstance(found, dict) else {}


def in_a_process(pipe: Any, piece: Piece) -> None:
    """A trial in a process of its own, apart from what the terminal sends to the sweep: the sweep passes it on."""
    from kedge.run.abreast import end_with_the_first

    os.setpgid(0, 0)
    end_with_the_first()
    pipe.send(carried_out(piece))
