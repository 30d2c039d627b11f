"""What is shown while a run goes on: a bar on a terminal, plain lines elsewhere when asked for."""

from __future__ import annotations

import sys
import time
from typing import Any

from kedge.launch import place

FRAME = 0.2
"""Seconds between two pictures of the bar."""
LINE = 10.0
"""Seconds between two plain lines."""


class Progress:
    """Rate, time left and loss. It looks at the clock at every step and draws a few times a second.

    `shown` None: a bar on a terminal, else nothing. True: plain lines where there is no terminal. False: nothing.
    """

    def __init__(self, shown: bool | None, steps: int, step: int, title: str) -> None:
        self.steps, self.first, self.title = steps, step, title
        self.begun = self.drawn = time.monotonic()
        self.loss: float | None = None
        """The last one that was averaged over some steps; None before there is any."""
        terminal = sys.stderr.isatty() and not place()[0]
        self.bar: Any = self._open_bar(step) if terminal and shown is not False else None
        self.lines = shown is True and not terminal

    def tick(self, step: int) -> None:
        """One more step was made."""
        if self.bar is None and not self.lines:
            return
        now = time.monotonic()
        if now - self.drawn >= (LINE if self.lines else FRAME):
            self.drawn = now
            self._draw(step, now)

    def close(self, step: int) -> None:
        """The last picture."""
        if self.bar is not None or self.lines:
            self._draw(step, time.monotonic())
        if self.bar is not None:
            self.bar.stop()

    def _draw(self, step: int, now: float) -> None:
        rate = (step - self.first) / max(now - self.begun, 1e-9)
        loss = "" if self.loss is None else f"loss {self.loss:.4g}"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, rate=f"{rate:.1f}/s", loss=loss, refresh=True)
        else:
            left = clock((self.steps - step) / rate) if rate > 0 else "?"
            announce(f"{self.title} {step}/{self.steps}  {rate:.1f} steps/s  {left} left  {loss}".rstrip())

    def _open_bar(self, step: int) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
        )
        bar = Bar(*columns, console=Console(stderr=True), auto_refresh=False)
        self.task = bar.add_task(self.title, total=self.steps, completed=step, rate="", loss="")
        bar.start()
        return bar


def announce(line: str) -> None:
    """A line to the reader, apart from what a program prints; of several processes that train together the first says
    it.
    """
    if place()[0]:
        return
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
