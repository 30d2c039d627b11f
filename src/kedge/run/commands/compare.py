"""`kedge compare RUN RUN...`: which is better, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kedge.errors import InputError
from kedge.run.commands.command import Command, Outcome, parsed, short, store


@dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Compares runs in pairs of equal starts. Runs of one recipe that differ in their training seed alone are one arm;
    every other arm is compared with the first, as its scores less the first's.
    """

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="Folders of evaluated runs.")
    ]
    score: Literal["latched", "raw"] = "latched"
    """Which score: latched counts an episode as solved from the first success on, raw sums its rewards."""

    def run(self) -> Outcome:
        """Pairs, resamples, tests."""
        self.place()
        from kedge.run.compare import arms, table

        groups = arms(self.runs)
        if len(groups) < 2:
            raise InputError(
                "compare: all of these are one arm (the same recipe but for its seed); give runs of two recipes"
            )
        found = table(groups, score=self.score, seed=self.seed)
        lines, data = found.lines(), found.json()
        if self.out is not None:
            store(self.out, data)
            lines = [*lines, f"stored in {short(self.out)}"]
        return Outcome(lines, data)


def parse(args: Sequence[str]) -> Compare:
    """The flags."""
    return parsed(Compare, args, "compare")
