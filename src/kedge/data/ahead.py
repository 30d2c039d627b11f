"""Makes the next batch while the step is computed."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any


class Ahead:
    """A source that makes the next batch of another one in a background thread, ahead of its time.

    It yields what the other yields, bit for bit, because the other's batches follow from the tick alone; one whose
    batches follow from what was drawn before (`kedge.train.Batches`) is refused. A tick that was not foreseen is
    served at once. An error in making a batch is raised where that batch is asked for.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self._turns = 1
        self._pending: tuple[Any, Future[Any]] | None = None
        self._checked = False
        self._thread: ThreadPoolExecutor | None = None
        # One batch at a time: the trainer's thread and the other one never ask the source at once.
        self._asking = threading.Lock()

    def next(self, tick: Any) -> Any:
        """The batch of the tick; meanwhile the one after it is begun."""
        pending, self._pending = self._pending, None
        if pending is not None and pending[0] == tick:
            batch = pending[1].result()
        else:
            if pending is not None:
                pending[1].cancel()
            batch = self._make(tick)
        self._turns = max(self._turns, tick.turn + 1) if tick.turn else self._turns
        following = self._following(tick)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "kedge-ahead")
            weakref.finalize(self, self._thread.shutdown, wait=False, cancel_futures=True)
        self._pending = following, self._thread.submit(self._make, following)
        return batch

    def state(self) -> dict[str, Any]:
        """The source's."""
        with self._asking:
            return self.source.state()

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from there; what was made ahead is forgotten."""
        self.close()
        self.source.load(state)

    def close(self) -> None:
        """Ends the thread. Another `next` starts it again."""
        self._pending = None
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = None

    def _following(self, tick: Any) -> Any:
        """The tick that is likely to come next: the trainer asks for each turn of a step, then for the next step."""
        if tick.turn + 1 < self._turns:
            return replace(tick, turn=tick.turn + 1)
        return replace(tick, step=tick.step + 1, turn=0)

    def _make(self, tick: Any) -> Any:
        with self._asking:
            if self._checked:
                return self.source.next(tick)
            before = self.source.state()
            batch = self.source.next(tick)
            if self.source.state() != before:
                name = type(self.source).__name__
                raise TypeError(
                    f"Ahead: a batch of {name} follows from those before it, not from the tick: leave Ahead out"
                )
            self._checked = True
            return batch
