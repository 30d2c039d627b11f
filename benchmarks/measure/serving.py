"""A hundred clients at once, in a process of their own: what each gets is what it would get alone, and how soon."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from websockets.asyncio.client import connect

from kedge import Cond, Denoiser, Walk, grids, solvers
from kedge.client.wire import pack, unpack
from kedge.data import Normaliser
from kedge.nets import MLP, UNet1D
from kedge.paths import Trig
from kedge.plan import Agent, Chase, Judge, Nearby, Planner
from kedge.policy import ChunkPolicy
from kedge.run.serve import Limits, Server
from kedge.walk.grids import Rho
from kedge.walk.solvers import DPMSolverPP

STATE, ACTION, CHUNK, WIDTH = 4, 2, 8, 32
PLANNER_STEPS, POLICY_STEPS = 20, 40
"""Of each client: a planner plans at the first and at the sixteenth, a policy at every fourth."""


class Heard(nn.Module):
    """A network of chunks that hears what is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.told = MLP((CHUNK, ACTION), width=256), nn.Linear(STATE, CHUNK * ACTION)

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        """The estimate."""
        assert cond is not None
        return self.net(x, t) + self.told(cond.fields["observation"]).unflatten(1, (CHUNK, ACTION))


def same(size: int) -> Normaliser:
    """Changes nothing."""
    return Normaliser(torch.zeros(size), torch.ones(size))


def planner() -> Agent:
    """FV's network and walk at their sizes, with 8 candidates; the time does not depend on what it has learned."""
    torch.manual_seed(0)
    net = UNet1D(STATE, width=32, mults=(1, 2)).eval().requires_grad_(False)
    denoiser = Denoiser(net, Trig(1.0), predict="trig")
    walk = {"solver": DPMSolverPP(order=2), "grid": Rho(5, 3.0, 0.2, 10.0), "nearby": Nearby(Rho(3, 3.0, 0.2, 2.0))}
    proposer = Planner(denoiser, same(STATE), 32, 15, dim=STATE, **walk)  # pyright: ignore[reportArgumentType]
    judge = Judge(lambda plans: plans[:, -1, 0], same(STATE))
    return Agent(proposer, judge, Chase(30), candidates=8, name="planner")


def policy() -> ChunkPolicy:
    """Chunks of 8 actions, of which 4 are done; 10 evaluations of a small network."""
    torch.manual_seed(0)
    walk = Walk(Denoiser(Heard().eval().requires_grad_(False), Trig(1.0)), solvers.DDIM(), grids.LogSNR(10))
    return ChunkPolicy(walk, (CHUNK, ACTION), same(STATE), same(ACTION), execute=4)


def serving(clients: int = 100) -> list[dict[str, Any]]:
    """Both agents, without and with batching."""
    agents = ("planner", planner, PLANNER_STEPS), ("policy", policy, POLICY_STEPS)
    return [
        {"agent": name, **loaded(make, clients, steps, batch)} for name, make, steps in agents for batch in (1, 16, 64)
    ]


def loaded(make: Callable[[], Any], clients: int, steps: int, batch: int) -> dict[str, Any]:
    """One arm: every client asks for its next action as soon as it has the last one."""
    agent = make()
    server = Server(agent, Limits(batch=batch), width=WIDTH)
    with server.running() as url, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(load, url, clients, steps).result()
    wrong = int((np.array(found["actions"]) != expected(agent, clients, steps, batch)).any(-1).sum())
    sizes = server.metrics.batches["slow"]
    slow = np.array(found["slow"], bool)
    took = 1000 * np.array(found["took"])
    return {
        "batch": batch, "width": WIDTH if batch > 1 else None, "clients": clients, "steps": steps,
        "seconds": found["seconds"], "rate": clients * steps / found["seconds"],
        "answers": len(took), "lost": clients * steps - len(took), "mixed_up": found["mixed_up"], "wrong": wrong,
        "mean_batch": float(server.metrics.requests["answered"] and slow.sum() / max(sum(sizes.counts), 1)),
        **{f"p{q}": float(np.percentile(took, q)) for q in (50, 95, 99)},
        **{f"network_p{q}": float(np.percentile(took[slow], q)) for q in (50, 95, 99)},
    }  # fmt: skip


def seen(client: int, steps: int) -> np.ndarray:
    """What a client sees."""
    return np.random.default_rng(client).normal(size=(steps, STATE))


def expected(agent: Any, clients: int, steps: int, batch: int) -> np.ndarray:
    """The actions of all clients `[clients, steps, act]`, in process: together if answers are steady, else by one."""
    looks = np.stack([seen(client, steps) for client in range(clients)])
    agent = agent.steady(WIDTH) if batch > 1 else agent
    groups = [list(range(clients))] if batch > 1 else [[client] for client in range(clients)]
    found = []
    for group in groups:
        controller = agent.controller()
        controller.reset(group)
        active = np.ones(len(group), bool)
        found.append(np.stack([controller.act(looks[group, step], active) for step in range(steps)], 1))
    return np.concatenate(found)


def load(url: str, clients: int, steps: int) -> dict[str, Any]:
    """All clients in one process: answers, their times, and how many belong to another request than they came for."""
    return asyncio.run(_load(url, clients, steps))


async def _load(url: str, clients: int, steps: int) -> dict[str, Any]:
    gate = asyncio.Event()
    tasks = [asyncio.create_task(_client(url, client, steps, gate)) for client in range(clients)]
    await asyncio.sleep(2.0)  # all are connected, none has asked
    began = time.perf_counter()
    gate.set()
    found = await asyncio.gather(*tasks)
    seconds = time.perf_counter() - began
    flat = [answer for answers in found for answer in answers]
    return {
        "seconds": seconds,
        "actions": [[answer["action"] for answer in answers] for answers in found],
        "took": [answer["took"] for answer in flat],
        "slow": [answer["slow"] for answer in flat],
        "mixed_up": sum(answer["mixed_up"] for answer in flat),
    }


async def _client(url: str, client: int, steps: int, gate: asyncio.Event) -> list[dict[str, Any]]:
    found = []
    async with connect(url, compression=None, proxy=None) as socket:
        await socket.recv()
        await socket.send(pack({"reset": True, "seed": client}))
        await socket.recv()
        await gate.wait()
        for step, look in enumerate(seen(client, steps)):
            number, began = 1000 * client + step, time.perf_counter()
            await socket.send(pack({"observation": look, "id": number}))
            data = await socket.recv()
            took = time.perf_counter() - began
            answer = json.loads(data) if isinstance(data, str) else unpack(data)
            action = answer["actions"][0].tolist()
            own = answer["id"] == number and answer["seed"] == client and answer["step"] == step
            every = 15 if steps == PLANNER_STEPS else 4
            found.append({"action": action, "took": took, "slow": step % every == 0, "mixed_up": not own})
    return found
