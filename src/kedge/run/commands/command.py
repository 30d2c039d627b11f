"""What all commands have: their flags, their way of being parsed, what they give back."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from kedge.errors import InputError

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Outcome:
    """What a command has to say: lines for a person, the same as data for a machine."""

    lines: list[str]
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Command:
    """The flags that every command has."""

    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """The seed of whatever is random in this command. The same seed gives the same result on the same machine."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Where networks run: cpu, cuda, cuda:1. By default the GPU if there is one, else the CPU."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many threads torch may use. By default as many as there are cores."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Where the result goes. By default a place that follows from what is made, and that is printed at the end."""
    json: bool = False
    """Print the result as one JSON object on standard output; everything else goes to standard error."""

    def place(self) -> str | None:
        """Sets the threads, and checks the device before any long work starts."""
        import torch

        if self.threads is not None:
            if self.threads < 1:
                raise InputError(f"--threads must be at least 1, got {self.threads}")
            torch.set_num_threads(self.threads)
        if self.device is None:
            return None
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"--device {self.device}: torch cannot use it here ({reason})") from None
        return self.device


def parsed(what: Callable[..., Parsed], args: Sequence[str], name: str) -> Parsed:
    """The command with its flags; `--help` and usage errors end the program with 0 and 2."""
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    return tyro.cli(what, args=list(args), prog=f"kedge {name}", config=config)


def environment(name: str) -> Any:
    """A maze by its name (`maze2d-large`), or from a text file that draws it."""
    from kedge.envs import Maze2D
    from kedge.envs.layout import Layout

    path = Path(name)
    if path.suffix == ".txt" or path.is_file():
        return Maze2D(Layout.of(_text(path), name=path.stem))
    known = [f"maze2d-{maze}" for maze in Layout.known()]
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            f"--env {name}: no such environment; {hint}known are {', '.join(known)}, "
            "or give a text file that draws a maze"
        )
    return Maze2D(name.removeprefix("maze2d-"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--env {path}: cannot be read as a maze ({error})") from None


def short(path: Path) -> str:
    """A path as one would type it here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
