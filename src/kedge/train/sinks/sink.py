"""Where the figures of a run go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class Sink(Protocol):
    """Takes rows of figures. The only thing that a training run calls back."""

    def open(self, run: Path, step: int) -> None:
        """A run begins, or goes on after `step` steps: rows beyond that will come again and are to be forgotten."""
        ...

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """The figures after `step` steps."""
        ...

    def close(self) -> None:
        """Nothing more will come for now."""
        ...
