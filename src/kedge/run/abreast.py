"""Pieces of work, one after the other or in several processes at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from typing import Any

PATIENCE = 0.1
"""Seconds between two looks at how far the processes have come."""


class StoppedError(RuntimeError):
    """Another process has failed, or the user has had enough."""


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def all_done(
    work: Any, pieces: Sequence[Any], steps: int, jobs: int, progress: Callable[[int, int], None] | None
) -> list[Any]:
    """What `work(piece, progress)` makes of each piece, in order.

    Args:
        work: is told how to say, after every step, how many of its `steps` it has made.
        pieces: what is to be done.
        steps: of each piece.
        jobs: processes; with one, or with one piece, all happens here.
        progress: is told the steps made and the steps in all.
    """
    total = steps * len(pieces)
    if jobs > 1 and len(pieces) > 1:
        return _in_processes(work, pieces, total, min(jobs, len(pieces)), progress)
    return [
        work(piece, lambda step, i=i: progress(i * steps + step, total) if progress else None)
        for i, piece in enumerate(pieces)
    ]


def _in_processes(
    work: Any, pieces: Sequence[Any], total: int, jobs: int, progress: Callable[[int, int], None] | None
) -> list[Any]:
    """Each process hears once what the work is, and counts its steps where all see them.

    They are started afresh rather than forked: torch's threads do not survive a fork. An interrupt is obeyed here; the
    others see the flag at their next step.
    """
    context = multiprocessing.get_context("spawn")
    made, stop = context.Array("q", len(pieces)), context.Event()
    with ProcessPoolExecutor(jobs, context, _begin, (work, made, stop)) as pool:
        found: list[Future[Any]] = []
        try:
            for i, piece in enumerate(pieces):
                found.append(pool.submit(_one, i, piece))
            pending = set(found)
            while pending:
                done, pending = wait(pending, PATIENCE, FIRST_EXCEPTION)
                for future in done:
                    future.result()  # or whatever it has failed with
                if progress is not None:
                    progress(sum(made[:]), total)
            return [future.result() for future in found]
        except BaseException:
            stop.set()
            for future in found:
                future.cancel()
            raise


class _Process:
    """What a process of the pool was told when it began."""

    work: Any
    made: Any
    stop: Any


def _begin(work: Any, made: Any, stop: Any) -> None:
    """In a new process: one thread, and interrupts are for the first one to obey. When that is gone, so is this."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_the_first()
    torch.set_num_threads(1)
    _Process.work, _Process.made, _Process.stop = work, made, stop


def end_with_the_first() -> None:
    """Ends this process when the one that started it is gone: it would wait for work for ever, or go on unasked."""
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _one(index: int, piece: Any) -> Any:
    """A piece."""

    def progress(step: int) -> None:
        _Process.made[index] = step
        if _Process.stop.is_set():
            raise StoppedError("stopped")

    return _Process.work(piece, progress)
