"""What the tests of the playground share: a run that is made in a second, a table without weights, a server."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from websockets.sync.client import ClientConnection, connect

import kedge
from kedge.data import Normaliser
from kedge.envs import Layout
from kedge.plan import Agent, Chase, Judge
from kedge.run.play.server import Table, application, bound, serve

ROOM = Layout.of("#######/#OOOOO#/#OOOOO#/#OOGOO#/#######")
ROOMS = Layout.of("#######/#OO#OO#/#OO#OO#/#OOGOO#/#######")
"""Two, and a passage between them at the goal."""


class Ways:
    """Proposes straight lines to the goal that bow out to the side, the more the higher a candidate's index; takes a
    time that can be set, and counts.
    """

    heeds, horizon, stride = True, 8, 5

    def __init__(self, pause: float = 0.0) -> None:
        self.pause, self.calls = pause, 0

    def propose(self, states: Tensor, seeds: Tensor, goal: Any = None, kept: Any = None, frames: Any = None) -> Tensor:
        self.calls += 1
        time.sleep(self.pause)
        n, w = seeds.shape[1], torch.linspace(0, 1, self.horizon)[:, None]
        end = torch.cat([torch.as_tensor(goal)[:, :2], torch.zeros(len(states), 2)], 1)[:, None, None]
        line = (1 - w) * states[:, None, None] + w * end
        way = line.expand(-1, n, -1, -1).clone()
        bow = torch.arange(n) * 0.5
        way[..., 1] += bow[:, None] * torch.sin(torch.pi * w[:, 0])
        return way


def agent(pause: float = 0.0, **more: Any) -> Agent:
    judge = Judge(None, Normaliser(torch.zeros(4), torch.ones(4)))
    return Agent(Ways(pause), judge, Chase(4), **({"candidates": 6, "replan": 10, "keep": False} | more))


def table(player: Agent | None = None, layout: Layout = ROOM) -> Table:
    return Table("mine", player or agent(), layout, [])


def trained(folder: Path) -> Path:
    """A planner of the small maze that has learned next to nothing, and answers at once."""
    maze = kedge.envs.Maze2D(ROOM)
    recipe = kedge.recipes.FV(steps=2, batch=4, width=8, horizon=8, candidates=6, evaluations=2, octaves=0, atlas=0)
    recipe.train(maze.demonstrations(3000, cache=False), folder, progress=False, task=maze.name)
    return folder


@contextlib.contextmanager
def served(app: Any, port: int = 0) -> Iterator[int]:
    """The playground in a thread of this process; its port."""
    listening = bound("127.0.0.1", port)
    servers: list[Any] = []
    ready = threading.Event()

    def run() -> None:
        serve(app, listening, ready.set, servers.append)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield listening.getsockname()[1]
    finally:
        servers[0].should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class Tab:
    """A page as the server sees it."""

    def __init__(self, port: int, token: str = "", **headers: str) -> None:
        address = f"ws://127.0.0.1:{port}/live" + (f"?token={token}" if token else "")
        self.context = connect(address, additional_headers=headers, open_timeout=10)
        self.socket: ClientConnection = self.context.__enter__()
        self.n = 0

    def say(self, word: str, **rest: Any) -> int:
        self.n += 1
        self.socket.send(json.dumps({"do": word, "n": self.n, **rest}))
        return self.n

    def hear(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = 10.0) -> dict[str, Any]:
        """The first message that is wanted; those before it are passed over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                message = self.socket.recv(timeout=max(end - time.monotonic(), 0.01))
            except TimeoutError:
                break
            words = plan_of(message) if isinstance(message, bytes) else json.loads(message)
            if wanted(words):
                return words
        raise TimeoutError("nothing of the kind was said")

    def kind(self, kind: str, seconds: float = 10.0) -> dict[str, Any]:
        return self.hear(lambda words: words["type"] == kind, seconds)

    def plan(self, n: int, seconds: float = 10.0) -> dict[str, Any]:
        """The first plan that knows of message n."""
        return self.hear(lambda words: words["type"] == "plan" and words["n"] >= n, seconds)

    def close(self) -> None:
        self.context.__exit__(None, None, None)


def plan_of(message: bytes) -> dict[str, Any]:
    """A plan as it was sent, as the page reads it."""
    length = int.from_bytes(message[:4], "little")
    head = json.loads(message[4 : 4 + length])
    head["pictures"] = np.frombuffer(message[4 + length :], "<i2").reshape(head["shape"]) / 1000
    return head


__all__ = ["ROOM", "ROOMS", "Tab", "Ways", "agent", "application", "plan_of", "served", "table", "trained"]
