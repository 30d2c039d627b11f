"""What the tests of the playground share: a run that is made in a second, a table without weights, a server."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kedge
from drilling.tab import Tab, plan_of
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


__all__ = ["ROOM", "ROOMS", "Tab", "Ways", "agent", "application", "plan_of", "served", "table", "trained"]
