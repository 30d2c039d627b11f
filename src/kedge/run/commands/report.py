"""`kedge report RUN...`: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kedge.errors import InputError
from kedge.run.commands.command import Command, Outcome, parsed, short
from kedge.run.commands.runs import recipe_of


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Writes one self-contained HTML file about a run, or about several side by side, and a picture of the first; or
    about a sweep.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="Folders of runs.")]

    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Changes nothing here: what a report draws at random, it draws from the same numbers always."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Changes nothing here: the few plans that a report shows are made on the CPU."""

    def run(self) -> Outcome:
        """Reads, draws, writes."""
        self.place()
        from kedge.run.notes import unfinished
        from kedge.run.report import is_sweep, report, sweep_report
        from kedge.train.progress import announce

        if len(self.runs) == 1 and is_sweep(self.runs[0]):
            return self._written(sweep_report(self.runs[0], self.out))
        for folder in self.runs:
            if is_sweep(folder):
                raise InputError(f"{folder}: a sweep has a report of its own; its trials are runs: {folder}/trial-000")
            if note := unfinished(folder, recipe_of(folder)):
                announce(note)
        return self._written(report(self.runs, self.out))

    def _written(self, path: Path) -> Outcome:
        data = {"report": str(path), "runs": [str(run) for run in self.runs], "bytes": path.stat().st_size}
        return Outcome([f"report: {short(path)}"], data)


def parse(args: Sequence[str]) -> Report:
    """The flags."""
    return parsed(Report, args, "report")
