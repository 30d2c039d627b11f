"""A bar on standard error for what takes a while; plain where there is no terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from kedge.train.progress import announce, clock


class Bar:
    """Called with how much is done, of how much."""

    def __init__(self, title: str) -> None:
        self.title, self.bar, self.task = title, None, None
        self.begun = self.drawn = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __call__(self, done: int, total: int) -> None:
        """Draws a few times a second."""
        now = time.monotonic()
        if now - self.drawn < 0.2 and done < total:
            return
        self.drawn = now
        if sys.stderr.isatty():
            self._draw(done, total)

    def _draw(self, done: int, total: int) -> None:
        if self.bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
            self.bar: Any = Progress(*columns, console=Console(stderr=True), auto_refresh=False)
            self.task: Any = self.bar.add_task(self.title, total=total)
            self.bar.start()
        self.bar.update(self.task, completed=done, total=total, refresh=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()
        if kind is None:
            announce(f"{self.title}: {clock(time.monotonic() - self.begun)}")
