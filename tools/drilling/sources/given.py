"""What a source hands over."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drilling.meeting import Meeting


@dataclass(frozen=True)
class Given:
    """A command line, and what is broken about it or about what it reads; of a server, who comes to see it."""

    args: list[str]
    what: str
    meeting: Meeting | None = None


Source = Callable[[random.Random, Path], Given]
EXECUTED = "executed"
"""A file that only a pickle would make, were it ever run."""
SMALL = ("--steps", "2", "--batch", "4", "--width", "8", "--horizon", "8", "--candidates", "2")
