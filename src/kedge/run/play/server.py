"""The page and its connections."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import hmac
import importlib
import math
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kedge.envs.layout import BALL, REACH, WALL_OFFSET, Layout
from kedge.errors import InputError
from kedge.extras import optional
from kedge.plan import Agent, Planner
from kedge.run.abreast import cores
from kedge.run.play.commands import LARGEST
from kedge.run.play.planning import AWAY
from kedge.run.play.scene import FAR, MOST, NAMED, RANGES
from kedge.run.play.session import Session
from kedge.run.play.world import World

STATIC = Path(__file__).parent / "static"
TABS = 8
"""Worlds at once: each takes its share of the machine."""
CURVES = 6
"""Steps of the training whose landscape is shown, at most."""
PLAYED = "by which the playground is served"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
REFUSED, FULL = 4401, 4429
"""The codes with which a connection is closed that has no token, or no room."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Table:
    """What is played with.

    name:      of the run
    agent:     that it holds
    layout:    of its maze
    landscape: `log L` over the noise scale, as training went on: step, log noise scales, values and what was fitted
    """

    name: str
    agent: Agent
    layout: Layout
    landscape: list[dict[str, Any]]

    def about(self) -> dict[str, Any]:
        """What a page has to know, once."""
        planner = isinstance(self.agent.proposer, Planner)
        return {
            "run": self.name,
            "agent": self.agent.name,
            "maze": {
                "name": self.layout.name,
                "shape": list(self.layout.walls.shape),
                "blocks": self.layout.blocks.tolist(),
                "edge": 0.5 + WALL_OFFSET,
                "ball": BALL,
                "reach": REACH,
                "away": AWAY,
                "longest": FAR,
            },
            "heeds": bool(getattr(self.agent.proposer, "heeds", False)),
            "denoises": planner,
            "ranges": {name: [low, high] for name, (low, high, _) in RANGES.items()},
            "named": {name: list(values) for name, values in NAMED.items()},
            "most": MOST,
            "landscape": self.landscape,
        }


def landscape_of(folder: Path) -> list[dict[str, Any]]:
    """The curves of `landscape.csv`, oldest first; none where the run has no such file."""
    path = folder / "landscape.csv"
    if not path.is_file():
        return []
    steps: dict[int, dict[str, Any]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                step, at, value = int(row["step"]), float(row["log_sigma"]), float(row["log_loss"])
            except (KeyError, TypeError, ValueError):
                continue
            fitted = row.get("fitted") or ""
            curve = steps.setdefault(step, {"step": step, "log_sigma": [], "log_loss": [], "fitted": []})
            if math.isfinite(at) and math.isfinite(value):
                curve["log_sigma"].append(at)
                curve["log_loss"].append(value)
                curve["fitted"].append(float(fitted) if fitted and math.isfinite(float(fitted)) else None)
    return [steps[step] for step in sorted(steps)][-CURVES:]


def application(table: Table, token: str | None = None, host: str = "127.0.0.1") -> Any:
    """The page, its files, and a world for each tab that connects. An ASGI application.

    Args:
        table: what is played with.
        token: which a page has to know, in its address.
        host: that is listened on. On the loopback, pages of other sites are sent away by the name that they call it by.
    """
    web = _web()
    app = _App(table, token, host)
    routes = [
        web.routing.Route("/", app.page),
        web.routing.WebSocketRoute("/live", app.live),
        web.routing.Mount("/static", web.staticfiles.StaticFiles(directory=STATIC)),
    ]
    return web.applications.Starlette(routes=routes, lifespan=app.lifespan)


class _GoneError(Exception):
    """The page has gone while it was spoken to."""


class _App:
    def __init__(self, table: Table, token: str | None, host: str) -> None:
        self.table, self.token, self.host = table, token, host
        self.tabs = self.seen = 0
        self.web = _web()

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """The threads: one for worlds, one a core for plans."""
        import torch

        torch.set_num_threads(1)
        begin = {"initializer": torch.set_num_threads, "initargs": (1,)}
        with ThreadPoolExecutor(1, "worlds") as self.hands, ThreadPoolExecutor(cores(), "plans", **begin) as self.heads:
            yield

    async def page(self, request: Any) -> Any:
        """The page itself."""
        responses = self.web.responses
        if why := self._refusal(request):
            return responses.PlainTextResponse(why + "\n", status_code=403)
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        return responses.HTMLResponse((STATIC / "index.html").read_text(encoding="utf-8"), headers=headers)

    async def live(self, socket: Any) -> None:
        """One tab, as long as it is there."""
        await socket.accept()
        why = self._refusal(socket) or self._foreign(socket)
        if why or self.tabs >= TABS:
            why = why or f"{TABS} tabs are open already: close one"
            await socket.send_json({"type": "refused", "why": why, "n": 0})
            await socket.close(REFUSED if self.tabs < TABS else FULL, why)
            return
        self.tabs, self.seen = self.tabs + 1, self.seen + 1
        try:
            await self._serve(socket, self.seen)
        finally:
            self.tabs -= 1

    async def _serve(self, socket: Any, seed: int) -> None:
        table, loop = self.table, asyncio.get_running_loop()
        world = await loop.run_in_executor(self.hands, World, table.layout, table.agent, seed)

        async def send(message: str | bytes) -> None:
            try:
                await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))
            except (self.web.websockets.WebSocketDisconnect, RuntimeError):  # nobody is there any more
                raise _GoneError from None

        session = Session(table.agent, world, send, self.hands, self.heads)
        with contextlib.suppress(_GoneError):
            await session.open(table.about())
            work = [asyncio.create_task(part) for part in (_hearing(session, socket), session.live(), session.plan())]
            try:
                done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                session.close()
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)

    def _refusal(self, asked: Any) -> str | None:
        """Why a page is not given out: it has no token, or it was called by a name that is not ours."""
        named = urlsplit(f"//{asked.headers.get('host', '')}").hostname
        if self.host in LOOPBACK and named not in LOOPBACK:
            return f"this playground is {self.host}, not {named}"
        given = asked.query_params.get("token", "")
        if self.token is not None and not hmac.compare_digest(given.encode(), self.token.encode()):
            return "this playground wants its token: open the address that `kedge play` has printed"
        return None

    def _foreign(self, socket: Any) -> str | None:
        """Why a connection is not taken: a page of another site has opened it."""
        origin = socket.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != socket.headers.get("host"):
            return f"a page of {origin} cannot play here"
        return None


async def _hearing(session: Session, socket: Any) -> None:
    """Until the page is gone."""
    while True:
        message = await socket.receive()
        if message["type"] != "websocket.receive":
            return
        text = message.get("text")
        await session.hear(text if text is not None else message.get("bytes") or b"")


def bound(host: str, port: int) -> socket.socket:
    """A socket to listen on; one line where there is none to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(64)
    except OSError as error:
        found.close()
        if isinstance(error, socket.gaierror):
            raise InputError(f"--host {host}: there is no such address here") from None
        said = error.strerror or str(error)
        raise InputError(
            f"port {port} of {host} cannot be listened on ({said}); give another --port, 0 for any"
        ) from None
    return found


def serve(
    app: Any,
    listening: socket.socket,
    begun: Callable[[], None] = lambda: None,
    made: Callable[[Any], None] = lambda server: None,
) -> None:
    """Serves until it is told to stop. `begun` is called once it listens; `made` is given the server before, whose
    `should_exit` ends it from elsewhere.
    """
    uvicorn: Any = optional("uvicorn", "play", PLAYED)
    config = uvicorn.Config(
        app,
        log_level="warning",
        ws="websockets-sansio",
        ws_max_size=LARGEST,
        ws_per_message_deflate=False,
        lifespan="on",
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                begun()

    server = Server(config)
    made(server)
    server.run(sockets=[listening])


def _web() -> Any:
    """Starlette, with the modules of it that are used here."""
    web: Any = optional("starlette", "play", PLAYED)
    for name in ("applications", "responses", "routing", "staticfiles", "websockets"):
        importlib.import_module(f"starlette.{name}")
    return web
