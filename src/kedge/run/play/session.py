"""One browser tab: it listens, it lets time pass, it plans. Nothing heavy happens in the event loop.

Three tasks share a world. All that touches the world is done by one thread, a piece at a time; plans are made by
others, from a snapshot. A command that changes what is planned for is answered by a draft, which has few candidates and
is never given up, so that someone who drags sees plans on the way; the full plan behind it waits for a hand that
rests, and is given up as soon as the next command comes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np

from kedge.errors import InputError
from kedge.plan import Agent
from kedge.run.play.commands import changes_plans, obey, read
from kedge.run.play.planning import Job, Made, SupersededError, frame_of, levels_of, make
from kedge.run.play.world import World

TICK = 1 / 30
"""Seconds between two pictures of the ball."""
STEP = 0.01
"""Seconds of a simulator's step."""
CATCH_UP = 60
"""Steps made at once at most: a machine that cannot keep up lets time pass more slowly."""
SEARCHES = 6
"""Plans made for a scene while time stands still: each looks near the best before."""
DRAFT = 25.0
"""Milliseconds that a draft is to take."""
LEAST = 4
"""Candidates of a draft, at least."""
HURRY = 0.12
"""Seconds for which a full plan waits after a draft."""
DRAGS = 0.2
"""Seconds after a wish in which time asks for no plan of its own."""
SLOW = 0.1
"""A ball at the goal that moves less than this on each axis stays there, and needs no new plan."""

ANSWERED = ("restore", "again", "set", "clear")
"""Commands after which the page is told what there is now. It knows that of the others, unless they are refused."""

Result = TypeVar("Result")
Send = Callable[[str | bytes], Any]


def _made(agent: Agent, job: Job, gone: Callable[[], bool]) -> tuple[Made, bytes]:
    """A plan, and as it is sent."""
    made = make(agent, job, gone)
    return made, frame_of(made)


class Session:
    """Args:
    agent: of the run.
    world: of this tab.
    send: an asynchronous function that sends a message to the page.
    hands: a thread for worlds.
    heads: threads for plans.
    """

    def __init__(self, agent: Agent, world: World, send: Send, hands: Executor, heads: Executor) -> None:
        self.agent, self.world = agent, world
        self._send, self._hands, self._heads = send, hands, heads
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._asked, self._answered, self._n, self._round = 1, 0, 0, 0
        self._closed, self._failed, self._touched = False, "", 0.0
        self._each = DRAFT / 16  # milliseconds a candidate, as last measured

    async def open(self, about: dict[str, Any]) -> None:
        """Says what there is, and begins: the returned tasks end when the page is gone."""
        await self._say({"type": "hello", **about, **await self._by_hand(self._state)})
        self._wanted.set()

    async def hear(self, message: str | bytes) -> None:
        """One message of the page: obeyed, or refused with one reason."""
        n = 0
        try:
            words = read(message)
            n = words.get("n", 0)
            answered = words["do"] in ANSWERED
            said, now = await self._by_hand(lambda: (obey(self.world, words), self._state() if answered else {}))
        except InputError as error:
            now = await self._by_hand(self._state)
            await self._say({"type": "refused", "why": str(error), "n": n, **now})
            return
        self._n = max(self._n, n)
        if changes_plans(words):
            self._asked += 1
            self._touched = time.perf_counter()
            self._wanted.set()
        if answered:
            await self._say({"type": "scene", "said": said, "n": n, **now})

    async def live(self) -> None:
        """Lets time pass, and asks for a plan whenever it is time for one."""
        last, left, shown = time.perf_counter(), 0.0, None
        while True:
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            settings = self.world.settings
            left = 0.0 if settings.paused else left + (now - last) / STEP * settings.speed
            last, steps = now, min(int(left), CATCH_UP)
            left = left - steps if left < CATCH_UP else 0.0
            found = await self._by_hand(lambda steps=steps: self._moved(steps))
            if found != shown:
                await self._say({"type": "ball", **found})
                shown = found

    async def plan(self) -> None:
        """Makes plans as they are wanted."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            asked = self._asked
            if asked != self._answered:
                self._round = 0
                await self._made(asked, draft=True)
                self._answered = asked
                if await self._hurried():
                    continue
            for _ in range(SEARCHES):
                if self._asked != asked or not await self._made(asked, draft=False):
                    self._wanted.set()  # something else is wanted by now
                    break
                self._round += 1
                if self._wanted.is_set() or not self.world.settings.paused:
                    break

    def close(self) -> None:
        """The page is gone: what is being planned is given up."""
        self._closed = True

    async def _hurried(self) -> bool:
        """Whether the next wish comes at once: a hand is dragging, and a full plan would not be seen."""
        try:
            await asyncio.wait_for(self._wanted.wait(), HURRY)
        except TimeoutError:
            return False
        return True

    async def _made(self, asked: int, draft: bool) -> bool:
        """Makes a plan, follows it and sends it; False where something newer was asked for on the way."""
        job = await self._by_hand(lambda: self._job(draft))

        def gone() -> bool:
            return self._closed or (not draft and self._asked != asked)

        try:
            made, frame = await self._loop.run_in_executor(self._heads, _made, self.agent, job, gone)
        except SupersededError:
            return False
        except Exception as error:  # whatever it is, the next wish may be one that can be met
            await self._fail(error)
            return True
        self._failed = ""
        self._each = 0.5 * self._each + 0.5 * made.milliseconds / job.count
        if not draft and self._asked != asked:
            return False
        await self._tell(frame)
        await self._by_hand(lambda: self.world.follow(made.plan))
        return True

    async def _fail(self, error: Exception) -> None:
        """Tells why there is no plan; the same reason once."""
        why = f"no plan could be made: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if why != self._failed:
            self._failed = why
            await self._say({"type": "refused", "why": why, "n": self._n, **await self._by_hand(self._state)})

    def _job(self, draft: bool) -> Job:
        """A snapshot of the world, and how many candidates there is time for."""
        world = self.world
        few = max(LEAST, int(DRAFT / max(self._each, 1e-3)))
        count = world.settings.candidates
        kept = world.rest() if self._round else None
        return Job(
            world.ahead,
            world.settings,
            world.ball,
            kept,
            self._n,
            self._round,
            min(few, count) if draft else count,
            draft,
        )

    def _moved(self, steps: int) -> dict[str, Any]:
        """Time passes in the world."""
        world = self.world
        world.advance(steps)
        ball = world.ball
        rests = world.arrived and bool((np.abs(ball[2:]) < SLOW).all())
        busy = world.held or time.perf_counter() - self._touched < DRAGS  # drafts come by themselves then
        if world.follows and world.since >= self.agent.replan and not rests and not busy:
            world.since = 0
            self._loop.call_soon_threadsafe(self._wanted.set)
        at = [round(float(v), 4) for v in ball]
        return {"at": at, "steps": world.steps, "arrived": world.arrived, "visited": sorted(world.visited)}

    def _state(self) -> dict[str, Any]:
        world = self.world
        return {
            "goal": list(world.scene.goal),
            "ball": [round(float(v), 4) for v in world.ball],
            "marks": [mark.words() for mark in world.scene.marks.values()],
            "settings": asdict(world.settings),
            "levels": levels_of(self.agent, world.settings.steps),
        }

    async def _by_hand(self, work: Callable[[], Result]) -> Result:
        """Something done to the world, by the thread that worlds are done by."""
        return await self._loop.run_in_executor(self._hands, work)

    async def _say(self, words: dict[str, Any]) -> None:
        await self._tell(json.dumps(words))

    async def _tell(self, message: str | bytes) -> None:
        async with self._turn:
            await self._send(message)
