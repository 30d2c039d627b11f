"""What the tests of the server share: agents by script, a client that is written from openpi's protocol alone, and a
healthy client that goes on beside it all. What no client would send is in `drilling.hostile`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
from websockets.sync.client import connect

from kedge.client import Client


@dataclass
class Scripted:
    """Does `2 observation + seed + step`, as many at once as there are; `calls` holds how many those were.

    every: it is slow at every such step, and quick at the others
    delay: seconds of a slow call
    gate:  where it waits to be let through, if anywhere
    """

    observed: int = 3
    label: str = "scripted"
    every: int = 1
    delay: float = 0.0
    gate: threading.Event | None = None
    calls: list[int] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)

    def controller(self) -> Steps:
        return Steps(self)

    def now(self, count: int) -> None:
        self.calls.append(count)
        self.begun.set()
        if self.gate is not None and not self.gate.wait(8):  # a test that fails must end all the same
            self.gate.set()
        time.sleep(self.delay)


class Steps:
    """Its controller."""

    def __init__(self, agent: Scripted) -> None:
        self.agent, self.step, self.seeds = agent, 0, np.zeros(1)
        self.plans: list[Any] = []

    @property
    def due(self) -> bool:
        return self.step % self.agent.every == 0

    def copied(self) -> Steps:
        made = Steps(self.agent)
        made.step, made.seeds = self.step, self.seeds
        return made

    def reset(self, seeds: Sequence[int]) -> None:
        self.step, self.seeds = 0, np.array(seeds, dtype=float)

    def act(self, observations: np.ndarray, active: np.ndarray) -> np.ndarray:
        return self.together([self], [observations], [active])[0]

    @staticmethod
    def together(
        controllers: Sequence[Any], observations: Sequence[np.ndarray], active: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        if controllers[0].due:
            controllers[0].agent.now(len(controllers))
        found = []
        for each, seen in zip(controllers, observations, strict=True):
            found.append(2 * seen + each.seeds[:, None] + each.step)
            each.step += 1
            each.plans.append(each.step)
        return found


class Openpi:
    """A client as openpi describes it, from its protocol alone: metadata first, then one map for another. Nothing of
    kedge is in it.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Api-Key {key}"} if key else None
        self.socket = connect(url, compression=None, max_size=None, additional_headers=headers, proxy=None).__enter__()
        self.metadata = self.unpacked(self.socket.recv())

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        self.socket.send(msgpack.packb(obs, default=self.coded) or b"")
        answer = self.socket.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"Error in inference server:\n{answer}")
        return self.unpacked(answer)

    @staticmethod
    def coded(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return {b"__ndarray__": True, b"data": x.tobytes(), b"dtype": x.dtype.str, b"shape": x.shape}
        if isinstance(x, np.generic):
            return {b"__npgeneric__": True, b"data": x.item(), b"dtype": x.dtype.str}
        return x

    @staticmethod
    def unpacked(data: Any) -> Any:
        def hook(x: dict[Any, Any]) -> Any:
            if b"__ndarray__" in x:
                return np.ndarray(buffer=x[b"data"], dtype=np.dtype(x[b"dtype"]), shape=x[b"shape"])
            if b"__npgeneric__" in x:
                return np.dtype(x[b"dtype"]).type(x[b"data"])
            return x

        return msgpack.unpackb(data, object_hook=hook)


@contextlib.contextmanager
def healthy(url: str, patience: float = 1.0) -> Iterator[list[float]]:
    """A client that goes on beside whatever happens: every answer is its own, and none takes longer than `patience`."""
    took: list[float] = []
    wrong: list[Any] = []
    stop = threading.Event()

    def work() -> None:
        rng = np.random.default_rng(0)
        try:
            with Client(url) as client:
                seed = client.reset(1000)
                while not stop.is_set():
                    seen, began = rng.normal(size=3), time.perf_counter()
                    action = client.act(seen)
                    took.append(time.perf_counter() - began)
                    step = len(took) - 1
                    if (action != 2 * seen + seed + step).any():
                        wrong.append((step, action))
                    time.sleep(0.002)
        except Exception as error:
            wrong.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        until = time.monotonic() + 10
        while len(took) < 3 and not wrong and time.monotonic() < until:
            time.sleep(0.005)
        yield took
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    assert max(took) < patience
