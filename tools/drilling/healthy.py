"""Clients who mean well, and what the agent says in this process to what they asked there: the same, bit for bit."""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from drilling.tab import Tab

RUN = "runs/fv"
WIDTH = 8
SEED = 1000
MOST = 40
"""Answers after which a client is content to wait for its last one."""
PAUSE = 0.03
PATIENCE = 60.0
"""Seconds for an answer, on a machine that others share."""
OPEN = ((1.0, 1.0), (1.0, 2.0), (1.0, 3.0), (2.0, 1.0), (2.0, 3.0), (3.0, 1.0), (3.0, 3.0))
"""Cells of the drill's maze."""


class Beside(ABC):
    """Asks, in a thread of its own, from `begin` to `end`, where it asks once more."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, Any]] = []
        self.failed = ""
        self._first, self._stop = threading.Event(), threading.Event()

    def begin(self, url: str) -> None:
        """Returns once it has been answered."""
        self._thread = threading.Thread(target=self._work, args=(url,), daemon=True)
        self._thread.start()
        self._first.wait(PATIENCE)

    def end(self, place: Path) -> str:
        """What was wrong with the answers."""
        self._stop.set()
        self._thread.join(2 * PATIENCE)
        if self.failed or self._thread.is_alive():
            return f"the client beside it failed: {self.failed or 'no answer'}"
        for number, (there, here) in enumerate(zip(self.asked, self.told(place), strict=True)):
            if not same(there[1], here):
                return f"answer {number} of {len(self.asked)} to the client beside it is another than it would be alone"
        return ""

    @abstractmethod
    def answers(self, url: str) -> Iterator[tuple[Any, Any]]:
        """What is asked and what is answered, without end."""

    @abstractmethod
    def told(self, place: Path) -> Iterator[Any]:
        """What the agent answers in this process."""

    def _work(self, url: str) -> None:
        try:
            for one in self.answers(url):
                last = self._stop.is_set()
                self.asked.append(one)
                self._first.set()
                if last:
                    break
                self._stop.wait(PAUSE if len(self.asked) < MOST else PATIENCE)
        except Exception as error:
            self.failed = f"{type(error).__name__}: {error}"
        finally:
            self._first.set()


def same(one: Any, other: Any) -> bool:
    """Bit for bit."""
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


class Actor(Beside):
    """An episode at `kedge serve`."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def answers(self, url: str) -> Iterator[tuple[Any, Any]]:
        """Actions, for a ball that is now here, now there."""
        from kedge.client import Client

        rng = np.random.default_rng(SEED)
        with Client(url, timeout=PATIENCE, patience=PATIENCE) as client:
            client.reset(SEED)
            while True:
                seen = np.array([*OPEN[rng.integers(len(OPEN))], *rng.normal(size=2)])
                yield seen, (client.act(seen),)

    def told(self, place: Path) -> Iterator[Any]:
        """By a controller of its own."""
        import kedge

        agent: Any = kedge.load(place / RUN)
        controller = (agent.steady(WIDTH) if self.batch > 1 else agent).controller()
        controller.reset([SEED])
        for seen, _ in self.asked:
            yield (controller.act(seen[None], np.ones(1, bool))[0],)


class Player(Beside):
    """A tab of `kedge play`, in which time stands still."""

    def answers(self, url: str) -> Iterator[tuple[Any, Any]]:
        """Plans, for a ball that is now here, now there."""
        tab = Tab(int(url.rpartition(":")[2]))
        try:
            tab.say("set", name="paused", value=True)
            while True:
                at = OPEN[len(self.asked) % len(OPEN)]
                n = tab.say("ball", at=at)
                plan = tab.hear(functools.partial(_full, n), PATIENCE)
                yield at, _seen(plan)
        finally:
            tab.close()

    def told(self, place: Path) -> Iterator[Any]:
        """By a world of its own."""
        from drilling.tab import plan_of
        from kedge.run.commands.play import table_of
        from kedge.run.play.planning import Job, frame_of, make
        from kedge.run.play.world import World

        table = table_of(place / RUN, None, None)
        world = World(table.layout, table.agent)
        for at, _ in self.asked:
            world.put(at)
            job = Job(world.ahead, world.settings, world.ball, None, 0, 0, world.settings.candidates, draft=False)
            yield _seen(plan_of(frame_of(make(table.agent, job))))


def _full(n: int, words: dict[str, Any]) -> bool:
    """Whether it is the first full plan that knows of message n: the drafts before it are as large as time allows."""
    return words["type"] == "plan" and words["n"] == n and words["round"] == 0 and not words["draft"]


def _seen(plan: dict[str, Any]) -> tuple[Any, ...]:
    return plan["pictures"], plan["values"], plan["best"]
