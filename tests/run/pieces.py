"""Work for other processes: it has to be found by them, so it stands in a module of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Slow:
    """Makes steps; fails in the piece that is to fail, notes which it has seen to the end."""

    notes: Path
    steps: int = 3
    pause: float = 0.0
    fails: int = -1

    def __call__(self, piece: int, progress: Callable[[int], None]) -> tuple[int, int]:
        for step in range(self.steps):
            if piece == self.fails:
                raise LookupError(f"piece {piece} is lost")
            time.sleep(self.pause)
            progress(step + 1)
        (self.notes / str(piece)).touch()
        return piece, os.getpid()
