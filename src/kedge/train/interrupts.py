"""Ctrl-C and termination as a wish to stop, to be granted between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """While it is open, the first SIGINT or SIGTERM is only noted; a second one acts as it always does.

    Signals reach the main thread alone; elsewhere nothing is changed. A launcher passes on what the terminal has sent
    to all: of a process that was `launched`, every signal is only noted.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, launched: bool = False) -> None:
        self.launched = launched
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if not self.launched:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
