"""Makes the next batch while the step is computed."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor


class Ahead:
    """A source that makes the next batch of another one in a background thread, ahead of its time.

    It yields what the other yields, bit for bit, because the other's batches follow from the tick alone. One whose
    batches follow from what was drawn before (`kedge.train.Batches`) is refused, and so is one whose batches follow
    from the weights that are trained and that says so with an attribute `follows_weights = True`: the thread would
    draw from weights that are half updated. A tick that was not foreseen is served at once. An error in making a batch
    is raised where that batch is asked for.
    """

    def __init__(self, source: Any) -> None:
        if getattr(source, "follows_weights", False):
            name = type(source).__name__
            raise TypeError(f"Ahead: a batch of {name} follows from the weights at its step: leave Ahead out")
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
            before = deepcopy(self.source.state())
            batch = self.source.next(tick)
            if not _same(self.source.state(), before):
                name = type(self.source).__name__
                raise TypeError(
                    f"Ahead: a batch of {name} follows from those before it, not from the tick: leave Ahead out"
                )
            self._checked = True
            return batch


def _same(a: Any, b: Any) -> bool:
    """Whether two states are equal; tensors in them are so if all their numbers are."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return bool(a == b)
