"""What the tests of the server share: agents by script, a client that is written from openpi's protocol alone, a raw
socket for what no client would send, and a healthy client that goes on beside it all.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import struct
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


class Raw:
    """A socket on which anything can be sent, after a handshake or without one."""

    TEXT, BINARY, CONT, PING = 1, 2, 0, 9

    def __init__(self, url: str, handshake: bool = True, buffer: int | None = None, **headers: str) -> None:
        host, _, port = url.removeprefix("ws://").rpartition(":")
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(10)
        self.socket.connect((host, int(port)))
        self.got = b""
        if handshake:
            key = base64.b64encode(os.urandom(16)).decode()
            said = {"Host": host, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": key} | headers
            lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
            self.socket.sendall(f"GET / HTTP/1.1\r\n{lines}Sec-WebSocket-Version: 13\r\n\r\n".encode())
            while b"\r\n\r\n" not in self.got:
                self.got += self.socket.recv(4096)
            head, _, self.got = self.got.partition(b"\r\n\r\n")
            if b" 101 " not in head:
                self.socket.close()
                raise ConnectionRefusedError(head.decode())
            assert self.frame()[0] == self.BINARY, "the metadata"

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: Any) -> None:
        self.socket.close()

    @staticmethod
    def framed(opcode: int, payload: bytes, fin: bool = True, declared: int | None = None) -> bytes:
        """A masked frame, the mask being zero; it may declare another length than it has."""
        size = len(payload) if declared is None else declared
        if size < 126:
            length = struct.pack("!B", 128 | size)
        else:
            length = struct.pack("!BH", 128 | 126, size) if size < 2**16 else struct.pack("!BQ", 128 | 127, size)
        return struct.pack("!B", 128 * fin | opcode) + length + bytes(4) + payload

    def send(self, payload: bytes, opcode: int = 2, **more: Any) -> None:
        self.socket.sendall(self.framed(opcode, payload, **more))

    def frame(self) -> tuple[int, bytes]:
        """The next frame of the server."""
        head = self._take(2)
        size = head[1] & 127
        if size == 126:
            size = struct.unpack("!H", self._take(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self._take(8))[0]
        return head[0] & 15, self._take(size)

    def closed(self) -> tuple[int, str]:
        """Why the server closes; what it says before is passed over."""
        while True:
            opcode, payload = self.frame()
            if opcode == 8:
                return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    def _take(self, size: int) -> bytes:
        while len(self.got) < size:
            more = self.socket.recv(2**16)
            if not more:
                raise ConnectionResetError("the server is gone")
            self.got += more
        taken, self.got = self.got[:size], self.got[size:]
        return taken


def array(x: Any, **other: Any) -> dict[bytes, Any]:
    """An array as it goes over the wire, with some of it said otherwise."""
    x = np.asarray(x)
    said = {"__ndarray__": True, "data": x.tobytes(), "dtype": x.dtype.str, "shape": list(x.shape)} | other
    return {name.encode(): value for name, value in said.items()}


def packed(**message: Any) -> bytes:
    data = msgpack.packb(message)
    assert isinstance(data, bytes)
    return data


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
