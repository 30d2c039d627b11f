"""Requests wait in lanes and are done in batches: a lane for those that ask a network, a lane for those that follow."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from kedge.envs.task import Controller, Sociable
from kedge.run.serve.metrics import Metrics

FORGETS = 0.2
"""Weight of the newest of the durations whose moving average is what a batch is expected to take."""
HALF_LIFE = 10.0
"""Seconds after which half as much is expected: what is refused for its deadline is never timed, and without this a
server that was slow once would refuse for ever.
"""


class UndoneError(Exception):
    """What was asked for is not done: `kind` is late or busy."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


@dataclass(frozen=True)
class Done:
    """A step.

    controller: that has moved on
    action:     its action
    queued:     seconds in the queue
    worked:     seconds of work
    batch:      how many were done together
    late:       whether it was not done by when it was wanted
    """

    controller: Controller
    action: Float[np.ndarray, " a"]
    queued: float
    worked: float
    batch: int
    late: bool


@dataclass(eq=False)
class Job:
    """A step of an episode. Times are of `time.perf_counter`."""

    controller: Controller
    observation: Float[np.ndarray, " s"]
    arrived: float
    until: float | None
    done: asyncio.Future[Done] = field(repr=False)


Step = tuple[Controller, Float[np.ndarray, " a"]]
"""A controller that has moved on, and its action."""


def acted(jobs: Sequence[Job]) -> list[Step | Exception]:
    """What becomes of each, in one go where that can be. Where it fails, each is tried by itself: what one client sees
    cannot spoil another one's step, and whoever fails is where he was.
    """
    if len(jobs) > 1 and isinstance(jobs[0].controller, Sociable):
        with contextlib.suppress(Exception):  # whose fault it is shows below
            return [*_together(jobs)]
    found: list[Step | Exception] = []
    for job in jobs:
        try:
            found += _together([job])
        except Exception as error:
            found.append(error)
    return found


def _together(jobs: Sequence[Job]) -> list[Step]:
    """By copies, so that nobody has moved if it fails. What they have planned is not kept: an episode may be long."""
    seen = [job.observation[None] for job in jobs]
    active = [np.ones(1, dtype=bool)] * len(jobs)
    controllers = [job.controller for job in jobs]
    if isinstance(first := controllers[0], Sociable):
        controllers = [each.copied() for each in controllers if isinstance(each, Sociable)]
        found = first.together(controllers, seen, active)
    else:
        found = [each.act(*given) for each, *given in zip(controllers, seen, active, strict=True)]
    for controller, actions in zip(controllers, found, strict=True):
        controller.plans.clear()
        if not np.isfinite(actions).all():
            raise ValueError("an action is not finite")
    return [(controller, np.array(actions[0])) for controller, actions in zip(controllers, found, strict=True)]


class Pace:
    """What a batch of each size is expected to take: a moving average. A larger one takes no less."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}
        self.timed = time.perf_counter()

    def add(self, size: int, seconds: float) -> None:
        """One more duration."""
        known = self.seconds.get(size, seconds)
        self.seconds[size] = (1 - FORGETS) * known + FORGETS * seconds
        self.timed = time.perf_counter()

    def of(self, size: int) -> float:
        """Seconds; of sizes that have not been seen, what the next smaller one takes."""
        below = [seconds for known, seconds in self.seconds.items() if known <= size]
        expected = max(below) if below else min(self.seconds.values(), default=0.0)
        return expected * 0.5 ** ((time.perf_counter() - self.timed) / HALF_LIFE)


class Lane:
    """Requests that are done together, one batch after the other, in a thread of their own.

    Args:
        name: in metrics.
        size: of a batch, at most.
        window: seconds that the first request of a batch waits for others.
        limit: requests that wait, at most.
        clients: how many there are who might ask: when all have, nobody waits.
        metrics: where it counts.
    """

    def __init__(
        self, name: str, size: int, window: float, limit: int, clients: Callable[[], int], metrics: Metrics
    ) -> None:
        self.name, self.size, self.window, self.limit = name, size, window, limit
        self.clients, self.metrics = clients, metrics
        self.pace = Pace()
        self.waiting: deque[Job] = deque()
        self._came = asyncio.Event()
        self._began: float | None = None
        self._doing: list[Job] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"kedge-serve-{name}")

    async def do(self, job: Job) -> Done:
        """Waits its turn. `UndoneError` where there is no room, or where it cannot be done in time."""
        if len(self.waiting) >= self.limit:
            raise UndoneError("busy", f"{self.limit} requests wait already; try again")
        ready = time.perf_counter() + self.wait()
        if job.until is not None and ready > job.until:
            raise UndoneError("late", f"it would be done {_ms(ready - job.until)} too late, at the present pace")
        self.waiting.append(job)
        self._came.set()
        return await job.done

    def wait(self) -> float:
        """Seconds until one more request would be done: the rest of the present batch, and the batches before its."""
        rest = 0.0
        if self._began is not None:
            rest = max(0.0, self._began + self.pace.of(len(self._doing)) - time.perf_counter())
        full, last = divmod(len(self.waiting), self.size)
        return rest + full * self.pace.of(self.size) + self.pace.of(last + 1)

    async def run(self) -> None:
        """Batch after batch, until it is cancelled."""
        while True:
            await self._gathered()
            batch = self._due(min(self.size, len(self.waiting)))
            if batch:
                await self._do(batch)

    def clear(self) -> None:
        """Whoever still waits hears that nothing will come of it."""
        for job in (*self.waiting, *self._doing):
            if not job.done.done():
                job.done.set_exception(UndoneError("busy", "the server stops"))
        self.waiting.clear()

    def close(self) -> None:
        """Ends its thread, once that has done what it is at."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _gathered(self) -> None:
        """Until there is something to do, and it has waited for company as long as it is to."""
        while True:
            self._came.clear()
            enough = min(self.size, max(1, self.clients()))
            rest = self.waiting[0].arrived + self.window - time.perf_counter() if self.waiting else None
            if self.waiting and (len(self.waiting) >= enough or rest is None or rest <= 0):
                return
            try:
                async with asyncio.timeout(rest):
                    await self._came.wait()
            except TimeoutError:
                return

    def _due(self, count: int) -> list[Job]:
        """The next few, without those that are late already."""
        now, batch = time.perf_counter(), []
        for job in [self.waiting.popleft() for _ in range(count)]:
            if job.done.done():
                continue
            late = -1.0 if job.until is None else now + self.pace.of(count) - job.until
            if late > 0:
                job.done.set_exception(UndoneError("late", f"it would be done {_ms(late)} too late"))
            else:
                batch.append(job)
        return batch

    async def _do(self, batch: list[Job]) -> None:
        """One batch; whatever it raises is its requests'."""
        try:
            await self._done(batch)
        except Exception as error:
            for job in batch:
                if not job.done.done():
                    job.done.set_exception(error)

    async def _done(self, batch: list[Job]) -> None:
        """Each request of a batch is answered."""
        began = self._began = time.perf_counter()
        self._doing = batch
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, acted, batch)
        finally:
            self._began = None
        now = time.perf_counter()
        self.pace.add(len(batch), now - began)
        self.metrics.busy[self.name].add(now - began)
        self.metrics.batches[self.name].add(float(len(batch)))
        for job, one in zip(batch, found, strict=True):
            self.metrics.queued.add(began - job.arrived)
            if job.done.done():
                continue
            if isinstance(one, Exception):
                job.done.set_exception(one)
            else:
                late = job.until is not None and now > job.until
                job.done.set_result(Done(*one, began - job.arrived, now - began, len(batch), late))


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
