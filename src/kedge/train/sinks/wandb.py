"""Figures to Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedge.extras import optional


class WandB:
    """A run with the folder's name as its identity, so that it is taken up again when the run is."""

    def __init__(self, project: str = "kedge") -> None:
        self.project = project
        self._wandb: Any = optional("wandb", "wandb", "which takes these figures")
        self._run: Any = None

    def open(self, run: Path, step: int) -> None:
        """Begins a run, or goes on with it."""
        self._run = self._wandb.init(project=self.project, id=run.name, name=run.name, dir=str(run), resume="allow")

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """One reading."""
        self._run.log(dict(row), step=step)

    def close(self) -> None:
        """Writes out what is pending."""
        if self._run is not None:
            self._run.finish()
            self._run = None
