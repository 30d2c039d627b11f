"""The policy server: websocket and msgpack for clients, HTTP for whoever watches over it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Protocol, runtime_checkable

import numpy as np
from websockets.asyncio.server import Server as Listener
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.protocol import OPEN

from kedge.client.wire import WireError, pack
from kedge.envs.task import Controller, Sociable
from kedge.errors import InputError
from kedge.run.serve.entrance import checked, lets_in
from kedge.run.serve.guard import PARTING, GuardedConnection
from kedge.run.serve.lanes import Done, Job, Lane, UndoneError, acted
from kedge.run.serve.limits import Limits
from kedge.run.serve.metrics import Metrics
from kedge.run.serve.request import Request, RequestError, read
from kedge.run.serve.sessions import Session, Sessions

PROTOCOL = 1
ROOM = 4096
"""Bytes of a request beyond those of its observation."""
REHEARSAL = 2.0
"""Seconds that may be spent on finding out how long a batch takes, before anyone is served."""
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


@runtime_checkable
class Served(Protocol):
    """What can be served: agents and policies."""

    @property
    def observed(self) -> int:
        """Numbers of an observation."""
        ...

    @property
    def label(self) -> str:
        """What it is called."""
        ...

    def controller(self) -> Controller:
        """One that acts as it was trained to."""
        ...


class Server:
    """Serves an agent to many clients at once, each of which has an episode of its own.

    With `limits.batch` above 1 what several clients ask is done together, and networks hear `width` samples in each
    call: an episode's actions are then, bit for bit, those of `agent.steady(width)` evaluated in process, whoever else
    is served. With a batch of 1 they are those of the agent as it is, evaluated one episode at a time.

    Args:
        agent: of `kedge.load`, or a policy.
        limits: how much, how many, how long.
        width: samples in each call of a network.
        token: what clients have to send; anything that other machines can reach needs one.
        seed: of the first episode whose client names none.
    """

    def __init__(
        self, agent: Served, limits: Limits | None = None, *, width: int = 32, token: str | None = None, seed: int = 0
    ) -> None:
        self.limits, self.token, self.width = limits or Limits(), token, width
        steady = getattr(agent, "steady", None)
        self.agent: Served = steady(width) if self.limits.batch > 1 and steady is not None else agent
        self.metrics = Metrics()
        self.sessions = Sessions(self.agent.controller, seed, self.limits.remember, self.limits.clients)
        self.stopping = asyncio.Event()
        self.visits: set[Visit] = set()
        self.shape: list[int] = []
        self.port: int | None = None
        lane = partial(Lane, limit=self.limits.queue, clients=self._clients, metrics=self.metrics)
        self.slow = lane("slow", self.limits.batch, self.limits.window)
        self.quick = lane("quick", 4 * self.limits.batch, 0.0)
        self._gauges()

    # Its life

    async def serve(self, host: str = "127.0.0.1", port: int = 8000, ready: Any = None) -> None:
        """Serves until `stop` is called, and then answers what is in flight. `ready` is called once it listens."""
        checked(host, self.token)
        self._warm()
        listener = await self._listen(host, port)
        lanes = [asyncio.create_task(lane.run()) for lane in (self.slow, self.quick)]
        try:
            if ready is not None:
                ready()
            told = asyncio.create_task(self.stopping.wait())
            await asyncio.wait([told, *lanes], return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            for lane in lanes:
                if lane.done():  # none ends by itself: whoever waits there would wait for ever
                    lane.result()
            await self._wind_up()
        finally:
            for task in lanes:
                task.cancel()
            for lane in (self.slow, self.quick):
                lane.clear()
            await self._close(listener)
            for lane in (self.slow, self.quick):
                lane.close()

    def stop(self) -> None:
        """No new requests from now on. To be called in the server's own loop."""
        self.stopping.set()
        for visit in self.visits:
            visit.came.set()

    @contextlib.contextmanager
    def running(self, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
        """Serves in a thread of its own, and hands out the address: `with Server(agent).running() as url: ...`."""
        up, failed = threading.Event(), list[BaseException]()
        loop = asyncio.new_event_loop()

        def work() -> None:
            try:
                loop.run_until_complete(self.serve(host, port, up.set))
            except BaseException as error:
                failed.append(error)
            finally:
                loop.close()
                up.set()

        thread = threading.Thread(target=work, name="kedge-serve", daemon=True)
        thread.start()
        up.wait()
        try:
            if not failed:
                yield f"ws://{host}:{self.port}"
        finally:
            with contextlib.suppress(RuntimeError):  # the loop may be closed already
                loop.call_soon_threadsafe(self.stop)
            thread.join()
        if failed:
            raise failed[0]

    async def _listen(self, host: str, port: int) -> Listener:
        size = ROOM + 2 * 8 * self.agent.observed
        try:
            listener = await serve(
                self._visited, host, port,
                origins=[None], compression=None, process_request=self._asked, open_timeout=self.limits.slow,
                close_timeout=PARTING, max_size=size, max_queue=self.limits.pending, server_header=None,
                create_connection=partial(GuardedConnection, self.limits, self._told),  # pyright: ignore[reportArgumentType]
                logger=_quiet(),
            )  # fmt: skip
        except OSError as error:
            raise InputError(f"port {port} of {host} cannot be had ({error.strerror or error})") from None
        self.port = next(iter(listener.sockets)).getsockname()[1]
        return listener

    async def _wind_up(self) -> None:
        """Nobody new is let in; those who have asked are answered, within reason."""
        tasks = [visit.task for visit in self.visits]
        if tasks:
            await asyncio.wait(tasks, timeout=self.limits.grace)

    async def _close(self, listener: Listener) -> None:
        """Whoever is still there is hung up on, and in the end cut off."""
        listener.close(code=1001, reason="the server stops")
        try:
            async with asyncio.timeout(2 * PARTING):
                await listener.wait_closed()
        except TimeoutError:
            for visit in self.visits:
                visit.task.cancel()
            await listener.wait_closed()

    def _warm(self) -> None:
        """Acts for nobody: what comes first is slow, and from then on the pace is known. In company it is known only
        where that is quick to find out; else it is taken to be no quicker than one after the other.
        """
        self._rehearse(1)
        alone = self._rehearse(1)
        for lane, seconds in alone.items():
            lane.pace.add(1, seconds)
        batch = self.limits.batch
        quick = batch * sum(alone.values()) < REHEARSAL
        together = self._rehearse(batch) if quick else {lane: batch * seconds for lane, seconds in alone.items()}
        for lane, seconds in together.items():
            lane.pace.add(batch, seconds)

    def _rehearse(self, size: int) -> dict[Lane, float]:
        """Two steps of so many episodes: the seconds of each."""
        seen = np.zeros(self.agent.observed)
        controllers = [self.agent.controller() for _ in range(size)]
        for controller in controllers:
            controller.reset([0])
        spent: dict[Lane, float] = {}
        for _ in range(2):
            lane = self._lane(controllers[0])
            jobs = [Job(controller, seen, 0.0, None, asyncio.Future()) for controller in controllers]
            began = time.perf_counter()
            steps = acted(jobs)
            spent[lane] = time.perf_counter() - began
            for step in steps:
                if isinstance(step, Exception):
                    raise step
            controllers = [step[0] for step in steps if not isinstance(step, Exception)]
            self.shape = [1, *(len(step[1]) for step in steps[:1] if not isinstance(step, Exception))]
        return spent

    def _told(self, code: int) -> None:
        self.metrics.closed[code] += 1

    def _gauges(self) -> None:
        for name, what, value in (
            ("clients", "Open connections.", self._clients),
            ("remembered", "Episodes of lost connections that are remembered.", lambda: len(self.sessions.lost)),
            ("waiting", "Requests that wait.", lambda: len(self.slow.waiting) + len(self.quick.waiting)),
            ("stopping", "1 while what is in flight is answered for the last time.", self.stopping.is_set),
        ):
            self.metrics.gauges[name] = what, lambda value=value: float(value())

    def _clients(self) -> int:
        return len(self.sessions.live)

    def _lane(self, controller: Controller) -> Lane:
        quick = isinstance(controller, Sociable) and not controller.due
        return self.quick if quick else self.slow

    # HTTP, and who is let in

    def _asked(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """The answer to a plain request; None for a client, which the websocket takes from here."""
        path, header = request.path.partition("?")[0], ",".join(request.headers.get_all("Authorization"))
        if request.method != "GET":
            return connection.respond(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is known here\n")
        if path not in ("/", "/healthz", "/metrics"):
            return connection.respond(HTTPStatus.NOT_FOUND, "there is /healthz, /metrics and, for clients, /\n")
        if path == "/healthz":
            if self.stopping.is_set():
                return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "stopping\n")
            return connection.respond(HTTPStatus.OK, "OK\n")
        if not lets_in(self.token, header):
            return connection.respond(HTTPStatus.UNAUTHORIZED, "a token is needed: Authorization: Api-Key TOKEN\n")
        if path == "/metrics":
            response = connection.respond(HTTPStatus.OK, self.metrics.text())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = PLAIN
            return response
        if self._clients() >= self.limits.clients:
            return connection.respond(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the server has its {self.limits.clients} clients; try again later\n"
            )
        if self.stopping.is_set():
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "the server stops\n")
        return None

    async def _visited(self, connection: ServerConnection) -> None:
        """One client, from its metadata to the end."""
        assert isinstance(connection, GuardedConnection)
        await Visit(self, connection).run()

    def metadata(self, session: Session) -> dict[str, Any]:
        """What a client hears first."""
        return {
            "server": f"kedge {version('kedge')}",
            "protocol": PROTOCOL,
            "agent": self.agent.label,
            "observation": {"shape": [self.agent.observed], "dtype": "float64"},
            "actions": {"shape": self.shape, "dtype": "float64"},
            "session": session.name,
            "width": self.width if self.limits.batch > 1 else None,
        }


class Visit:
    """One connection: a reader that takes in what arrives, and a loop that answers it in order."""

    def __init__(self, server: Server, connection: GuardedConnection) -> None:
        self.server, self.connection, self.metrics = server, connection, server.metrics
        self.inbox: deque[tuple[float, bytes | str]] = deque()
        self.came, self.gone = asyncio.Event(), False
        self.session = server.sessions.new(self)

    async def run(self) -> None:
        """From its metadata to the end."""
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.server.visits.add(self)
        reader = asyncio.create_task(self._reads())
        try:
            await self.send(pack(self.server.metadata(self.session)))
            await self._answers()
        except ConnectionClosed:
            pass
        finally:
            reader.cancel()
            farewell = self.connection.protocol.close_rcvd
            self.server.sessions.leave(self.session, self, farewell is not None and farewell.code == 1000)
            self.server.visits.discard(self)

    async def _reads(self) -> None:
        """Takes in what arrives, with the time; too much of it is refused."""
        pending = self.server.limits.pending
        try:
            async for message in self.connection:
                if self.server.stopping.is_set():
                    continue
                if len(self.inbox) >= pending:
                    self.metrics.requests["refused"] += 1
                    self.connection.refuse(1008, f"more than {pending} requests without waiting for an answer")
                    break
                self.inbox.append((time.perf_counter(), message))
                self.came.set()
        except ConnectionClosed:
            pass
        self.gone = True
        self.came.set()

    async def _answers(self) -> None:
        """One after the other, until the client leaves, is refused, or the server stops."""
        while (item := await self._next()) is not None:
            arrived, message = item
            try:
                answer = await self._answer(message, arrived)
            except (WireError, RequestError, InputError) as error:
                self.metrics.requests["refused"] += 1
                self.connection.refuse(1007 if isinstance(error, WireError) else 1008, str(error))
                return
            except Exception as error:
                sys.stderr.write(fault(error))
                self.metrics.requests["failed"] += 1
                self.connection.refuse(1011, "the agent failed; the server's log says how")
                return
            if answer is None:
                return
            await self.send(answer)
            if self.connection.protocol.state is not OPEN:
                return

    async def _next(self) -> tuple[float, bytes | str] | None:
        """What has arrived; None at the end, which comes once the server stops and all is answered."""
        reason = "the server stops"
        while not self.inbox:
            if self.gone:
                return None
            if self.server.stopping.is_set():
                break
            self.came.clear()
            try:
                async with asyncio.timeout(self.server.limits.idle):
                    await self.came.wait()
            except TimeoutError:
                reason = f"no request for {self.server.limits.idle:g} s"
                break
        if self.inbox:
            return self.inbox.popleft()
        self.connection.refuse(1001, reason)
        return None

    async def _answer(self, message: bytes | str, arrived: float) -> bytes | str | None:
        """What is sent back; None where the connection is no longer the session's."""
        if isinstance(message, str):
            self.metrics.requests["refused"] += 1
            self.connection.refuse(1003, "a text frame: requests are msgpack, in binary frames")
            return None
        request = read(message, self.server.agent.observed)
        if request.resume is not None:
            return self._resumes(request.resume)
        session = self.session
        async with session.turn:
            if session.owner is not self:
                return None
            if session.last is not None and request.number == session.last[0]:
                self.metrics.requests["again"] += 1
                return session.last[1]
            answer = await self._does(session, request, arrived)
            if request.number is not None:
                session.last = request.number, answer
            return answer

    async def _does(self, session: Session, request: Request, arrived: float) -> bytes | str:
        """A reset, a step, or both."""
        number = {} if request.number is None else {"id": request.number}
        if request.reset or session.seed is None:
            session.begin(self.server.sessions.seed() if request.seed is None else request.seed)
        if request.observation is None:
            self.metrics.requests["reset"] += 1
            return pack({**number, "reset": True, "seed": session.seed})
        until = None if request.deadline is None else arrived + request.deadline
        job = Job(session.controller, request.observation, arrived, until, asyncio.get_running_loop().create_future())
        try:
            done = await self.server._lane(session.controller).do(job)
        except UndoneError as error:
            self.metrics.requests[error.kind] += 1
            return json.dumps({**number, "refused": error.kind, "why": str(error), "counted": False})
        session.controller, session.step = done.controller, session.step + 1
        if done.late:  # the episode has moved on: a plan that came too late serves the steps after it
            self.metrics.requests["late"] += 1
            return json.dumps({**number, "refused": "late", "why": "it was done, but too late", "counted": True})
        self.metrics.requests["answered"] += 1
        self.metrics.answered.add(time.perf_counter() - arrived)
        return pack({**number, **_said(done), "seed": session.seed, "step": session.step - 1})

    def _resumes(self, name: str) -> bytes | str:
        """Goes on with the episode of a connection that was lost; what was begun on this one is dropped."""
        found = self.server.sessions.resume(name, self)
        if found is None:
            self.metrics.requests["lost"] += 1
            why = "the server does not know this session, or no longer; begin a new episode"
            return json.dumps({"refused": "lost", "why": why, "counted": False})
        if self.session.name != name:
            self.server.sessions.live.pop(self.session.name, None)
        self.session, before = found
        if isinstance(before, Visit) and before is not self:
            before.connection.refuse(1008, "the session goes on over another connection")
        self.metrics.requests["resumed"] += 1
        return pack({"resumed": True, "step": self.session.step})

    async def send(self, answer: bytes | str) -> None:
        """Hands over an answer; a client that does not read it in time is refused."""
        try:
            async with asyncio.timeout(self.server.limits.slow):
                await self.connection.send(answer)
        except TimeoutError:
            self.connection.refuse(1008, f"an answer was not read for {self.server.limits.slow:g} s")


def fault(error: Exception) -> str:
    """What the log says of an agent that failed. A ValueError is about what it was given, numbers that lead out of the
    finite ones for instance: that is one line, for whoever asks may ask it again and again. All else is in full.
    """
    if not isinstance(error, ValueError):
        return "".join(traceback.format_exception(error))
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({frame.filename}:{frame.lineno})" for frame in last)
    return f"the agent failed: {' '.join(str(error).split())}{where}\n"


def _quiet() -> logging.Logger:
    """What strangers send is counted, not printed."""
    logger = logging.getLogger("kedge.serve.connections")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


def _said(done: Done) -> dict[str, Any]:
    """An action as a chunk of one, which is what openpi's clients expect, and the times in milliseconds."""
    timing = {"infer_ms": 1000 * done.worked, "queue_ms": 1000 * done.queued, "batch": done.batch}
    return {"actions": done.action[None], "server_timing": timing}
