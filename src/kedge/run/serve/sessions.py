"""Episodes of clients: what the controller remembers of each, and for how long after a connection is lost."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kedge.envs.task import Controller


@dataclass(eq=False)
class Session:
    """An episode after the other of one client.

    name:       by which the client may go on with it over another connection
    controller: one of its own: what it remembers is this client's alone
    owner:      the connection that it belongs to now
    seed:       of the episode, None before the first
    step:       actions that were given in it
    last:       number and bytes of the last answer that was numbered
    turn:       held while a request is done: they are done one at a time
    """

    name: str
    controller: Controller
    owner: Any
    seed: int | None = None
    step: int = 0
    last: tuple[int, bytes | str] | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def begin(self, seed: int) -> None:
        """A new episode."""
        self.controller.reset([seed])
        self.seed, self.step = seed, 0


class Sessions:
    """Those that have a connection, and those that have lost it a short while ago.

    Args:
        controller: makes one.
        first_seed: of episodes whose client names none; each takes the next.
        remember: seconds.
        most: that are remembered; the oldest go first.
    """

    def __init__(self, controller: Callable[[], Controller], first_seed: int, remember: float, most: int) -> None:
        self.controller, self.remember, self.most = controller, remember, most
        self.live: dict[str, Session] = {}
        self.lost: OrderedDict[str, tuple[float, Session]] = OrderedDict()
        self._seed = first_seed

    def new(self, owner: Any) -> Session:
        """For a new connection."""
        session = Session(secrets.token_hex(16), self.controller(), owner)
        self.live[session.name] = session
        return session

    def seed(self) -> int:
        """The next one."""
        self._seed += 1
        return self._seed - 1

    def resume(self, name: str, owner: Any) -> tuple[Session, Any] | None:
        """A session by its name, now of another connection, and the connection that it is taken from."""
        self._forget()
        session = self.live.get(name) or self.lost.pop(name, (0.0, None))[1]
        if session is None:
            return None
        before, session.owner = session.owner, owner
        self.live[name] = session
        return session, before

    def leave(self, session: Session, owner: Any, done: bool) -> None:
        """Its connection is gone. It is remembered, if it has begun, is not done, and nobody else has it."""
        if session.owner is not owner or self.live.pop(session.name, None) is None:
            return
        session.owner = None
        if session.seed is not None and not done:
            self.lost[session.name] = time.monotonic() + self.remember, session
        self._forget()

    def _forget(self) -> None:
        now = time.monotonic()
        while self.lost and (len(self.lost) > self.most or next(iter(self.lost.values()))[0] < now):
            self.lost.popitem(last=False)
