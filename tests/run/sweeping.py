"""What the tests of sweeps share: trials that cost nothing, with a figure that is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kedge.recipes import FV
from kedge.run.commands.train import Train
from kedge.run.sweep.figure import By
from kedge.run.sweep.loop import Sweep
from kedge.run.sweep.space import space_of
from kedge.run.sweep.trial import Ending, Piece
from kedge.train.checkpoint import save_json

OVER = ("rate=1e-4:1e-1:log", "width=16,32,64")


def known(recipe: Any) -> float:
    """At best 0: at a rate of 10^-2.5, and a width of 64."""
    return -((math.log10(recipe.rate) + 2.5) ** 2) - (recipe.width != 64)


class KilledError(Exception):
    """The process is gone in the midst of it."""


@dataclass
class Known:
    """A pool whose trials end as soon as they are asked; `fate` says how, by their pieces."""

    room: int = 1
    fate: Callable[[Piece], Ending] = lambda piece: Ending("finished", known(piece.recipe), seconds=1.0)
    dies: int = 10_000
    """How many trials are begun until the process is killed."""
    begun: list[Piece] = field(default_factory=list)
    going: list[Piece] = field(default_factory=list)
    stopped: bool = False

    def start(self, piece: Piece) -> None:
        self.begun.append(piece)
        self.going.append(piece)
        if len(self.begun) > self.dies:
            raise KilledError

    def ended(self) -> list[tuple[int, Ending]]:
        done, self.going = self.going, []
        return [(piece.number, self.fate(piece)) for piece in done]

    def stop(self) -> None:
        self.stopped = True


def sweep(folder: Path, over: tuple[str, ...] = OVER, **how: Any) -> Sweep:
    """A sweep over a recipe in a folder."""
    folder.mkdir(exist_ok=True)
    recipe, by = how.pop("recipe", FV()), how.pop("by", By("score", "max", 10, 0))
    flags = Train(seed=how.pop("seed", 0), out=None, env="maze2d-umaze")
    save_json(folder / "sweep.json", {"sweep": {}})
    told = {"over": dict(text.split("=") for text in over)}
    return Sweep(folder, recipe, "fv", flags, space_of(recipe, over), by, told, **how)


def table(made: Sweep) -> list[tuple[Any, ...]]:
    """What came of it, trial by trial."""
    return [(row.number, row.state, row.value, tuple(sorted(row.told.items()))) for row in made.rows()]
