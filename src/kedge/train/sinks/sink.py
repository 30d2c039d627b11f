"""Where the figures of a run go."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
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


def optional(module: str, extra: str) -> ModuleType:
    """Imports what an extra brings, or says in one line how to get it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{module} is not installed: pip install kedge[{extra}]", name=module) from None
