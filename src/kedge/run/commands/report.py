"""`kedge report RUN...`: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kedge.run.commands.command import Command, Outcome, parsed, short


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Writes one self-contained HTML file about a run, or about several side by side, and a picture of the first."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="Folders of runs.")]

    def run(self) -> Outcome:
        """Reads, draws, writes."""
        self.place()
        from kedge.run.report import report

        path = report(self.runs, self.out)
        data = {"report": str(path), "runs": [str(run) for run in self.runs], "bytes": path.stat().st_size}
        return Outcome([f"report: {short(path)}"], data)


def parse(args: Sequence[str]) -> Report:
    """The flags."""
    return parsed(Report, args, "report")
