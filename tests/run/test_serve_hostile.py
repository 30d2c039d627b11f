"""What no client of ours would send. Each is refused with one reason, and a healthy client beside it never notices."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drilling.hostile import DEEP, FRAMES, WIDE, Raw, array, packed, unusable
from kedge.client.wire import unpack
from kedge.run.serve import Limits, Server, guard
from plan.agents import drawn_agent
from run.served import Scripted, healthy

PATIENCE = 3.0
"""Seconds that the healthy client may wait for an answer, on a machine that has other work."""
SEEN = [1.0, 2.0, 3.0]
GOOD = packed(observation=array(SEEN))


@pytest.fixture
def server() -> Server:
    return Server(Scripted(), Limits(slow=0.4, frames=300, pending=4))


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with server.running() as url, healthy(url, PATIENCE):
        yield url


def test_what_cannot_be_used_is_refused_with_a_reason_each(url: str) -> None:
    sent = unusable(SEEN)
    assert b"" not in [data for data, code, _ in sent.values() if code == 1008]
    for name, (data, code, reason) in sent.items():
        with Raw(url) as raw:
            raw.send(data)
            found = raw.closed()
        assert found[0] == code, (name, found)
        assert re.search(reason, found[1]), (name, found)
        assert len(found[1].encode()) <= 123


def test_frames_that_are_none_are_refused_with_a_reason_each(url: str, server: Server) -> None:
    for name, (data, code, reason) in FRAMES.items():
        with Raw(url) as raw:
            raw.socket.sendall(data)
            found = raw.closed()
        assert found[0] == code, (name, found)
        assert reason in found[1], (name, found)
    counted = time.monotonic() + 5
    while sum(server.metrics.closed.values()) < len(FRAMES):
        assert time.monotonic() < counted
        time.sleep(0.01)


def test_a_frame_that_breaks_off_with_its_connection_is_nobody_s_loss(url: str, server: Server) -> None:
    for _ in range(5):
        with Raw(url) as raw:
            raw.socket.sendall(Raw.framed(Raw.BINARY, GOOD)[:-7])
    gone = time.monotonic() + 5
    while len(server.visits) > 1:
        assert time.monotonic() < gone
        time.sleep(0.01)


def test_a_message_has_so_long_to_arrive(url: str) -> None:
    frame = Raw.framed(Raw.BINARY, GOOD)
    with Raw(url) as raw, Raw(url) as pinging, Raw(url) as pausing:
        began = time.monotonic()
        pinging.send(GOOD[:9], fin=False)
        pausing.send(GOOD)
        assert pausing.frame()[0] == Raw.BINARY
        for byte in frame[:12]:
            raw.socket.sendall(bytes([byte]))
            pinging.send(b"still here", Raw.PING)
            time.sleep(0.05)
        for slow in (raw, pinging):
            assert slow.closed() == (1008, "a message took more than 0.4 s to arrive")
        assert time.monotonic() - began < 5
        pausing.send(GOOD)
        assert pausing.frame()[0] == Raw.BINARY, "between two messages there is no hurry"


def test_a_handshake_has_so_long_to_arrive(url: str) -> None:
    with Raw(url, handshake=False) as raw:
        raw.socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        began = time.monotonic()
        while raw.socket.recv(4096):
            pass
        assert time.monotonic() - began < 5


def test_floods_are_refused(url: str) -> None:
    with Raw(url) as raw:
        raw.socket.sendall(Raw.framed(Raw.PING, b"") * 5000)
        assert raw.closed() == (1008, "a flood: more than 300 frames a second")
    with Raw(url) as raw:
        raw.socket.sendall(Raw.framed(Raw.BINARY, GOOD) * 200)
        assert raw.closed() == (1008, "more than 4 requests without waiting for an answer")


def test_who_asks_again_while_it_waits_has_so_many_requests_and_no_more() -> None:
    agent = Scripted()
    with Server(agent, Limits(batch=1, pending=3)).running() as url, Raw(url) as raw:
        agent.gate = threading.Event()
        agent.begun.clear()
        raw.send(GOOD)
        assert agent.begun.wait(5)
        for _ in range(3):
            raw.send(GOOD)
        time.sleep(0.1)
        agent.gate.set()
        assert [unpack(raw.frame()[1])["step"] for _ in range(4)] == [0, 1, 2, 3]


def told(server: Server, count: int) -> None:
    """Waits until so many were refused for what they do, and are gone."""
    until = time.monotonic() + 20
    while server.metrics.closed[1008] < count or len(server.visits) > 1:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings are answered without being asked for; requests one after the other."""
    monkeypatch.setattr(guard, "PARTING", 0.2)
    server = Server(Scripted(), Limits(slow=0.4, frames=10**7, pending=10**6))
    with server.running() as url, healthy(url, PATIENCE):
        with Raw(url, buffer=4096) as raw:
            pings = Raw.framed(Raw.PING, bytes(125)) * 100
            for _ in range(60):
                raw.socket.sendall(pings)
            told(server, 1)
        with Raw(url, buffer=4096) as raw:
            for _ in range(1500):
                raw.send(GOOD)
            told(server, 2)


def memory() -> float:
    """Megabytes that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_what_is_declared_is_not_set_aside(url: str) -> None:
    """Forty clients that declare gigabytes each, and stay as long as they may."""
    with Raw(url) as raw:
        raw.send(WIDE)
        raw.closed()
    before = memory()
    frames: list[bytes] = [WIDE, DEEP, Raw.framed(Raw.BINARY, b"", declared=2**40)]
    raws = [Raw(url) for _ in range(40)]
    for i, raw in enumerate(raws):
        raw.socket.sendall(frames[i % 3] if i % 3 == 2 else Raw.framed(Raw.BINARY, frames[i % 3]))
    assert {raw.closed()[0] for raw in raws} == {1007, 1009}
    for raw in raws:
        raw.socket.close()
    assert memory() - before < 30


def test_a_crowd_at_the_door_gets_no_further() -> None:
    server = Server(Scripted(), Limits(clients=3, slow=0.5))
    with server.running() as url, healthy(url, PATIENCE):
        crowd = [Raw(url, handshake=False) for _ in range(80)]
        time.sleep(0.2)
        turned = 0
        for raw in crowd:
            raw.socket.setblocking(False)
            try:
                turned += raw.socket.recv(1) == b""
            except ConnectionResetError:
                turned += 1
            except BlockingIOError:
                pass
        assert turned >= 80 - 3 - 32
        for raw in crowd:
            raw.socket.close()


def test_extremes_that_a_float32_holds_harm_nobody_s_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """The networks turn them into nonsense, which reaches nobody else and is not given out."""
    server = Server(drawn_agent(), Limits(batch=4, window=0.3), width=8)
    with server.running() as url, Raw(url) as raw, Raw(url) as other:
        seen: list[Any] = [array(np.full(4, x)) for x in (3e38, 0.1)]
        raw.send(packed(observation=seen[0], reset=True, seed=1))
        other.send(packed(observation=seen[1], reset=True, seed=2))
        beside = unpack(other.frame()[1])
        assert raw.closed() == (1011, "the agent failed; the server's log says how")
        said = capsys.readouterr().err
        assert said.startswith("the agent failed: the walk left the finite numbers in step ")
        assert said.count("\n") == 1, "a stranger fills no log"
    with Server(drawn_agent(), Limits(batch=4), width=8).running() as url, Raw(url) as raw:
        raw.send(packed(observation=seen[1], reset=True, seed=2))
        alone = unpack(raw.frame()[1])
    assert beside["server_timing"]["batch"] == 2
    assert beside["actions"].tolist() == alone["actions"].tolist()
    assert all(math.isfinite(x) for x in alone["actions"][0])
