"""Figures to trackio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedge.extras import optional


class Trackio:
    """A local dashboard; the run is named after its folder and taken up again when the run is."""

    def __init__(self, project: str = "kedge") -> None:
        self.project = project
        self._trackio: Any = optional("trackio", "trackio", "which takes these figures")

    def open(self, run: Path, step: int) -> None:
        """Begins a run, or goes on with it."""
        self._trackio.init(project=self.project, name=run.name, resume="allow")

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """One reading."""
        self._trackio.log(dict(row), step=step)

    def close(self) -> None:
        """Writes out what is pending."""
        self._trackio.finish()
