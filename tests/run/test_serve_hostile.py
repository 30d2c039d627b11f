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

import msgpack
import numpy as np
import pytest

from kedge.client.wire import unpack
from kedge.run.serve import Limits, Server, guard
from plan.agents import drawn_agent
from run.served import Raw, Scripted, array, healthy, packed

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


NAN, INF = float("nan"), float("inf")
DEEP = b"\x91" * 4000 + b"\x00"
WIDE = b"\xdc\x3f\xff" * 1000  # lists in lists, each of which declares 16383 entries
UNUSABLE: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 1007, "no msgpack"),
    "half a message": (GOOD[: len(GOOD) // 2], 1007, "no msgpack"),
    "more than a message": (GOOD + b"\x00", 1007, "no msgpack"),
    "no map": (msgpack.packb([1, 2]) or b"", 1007, "a map from names"),
    "keys that are no names": (msgpack.packb({b"observation": 1}) or b"", 1007, "a map from names"),
    "deep nesting": (DEEP, 1007, "nested too deeply|no msgpack"),
    "lists that declare much": (WIDE, 1007, "no msgpack"),
    "a list that declares 4 billion entries": (b"\x81\xa1x\xdd\xff\xff\xff\xff", 1007, "no msgpack"),
    "a string that declares 4 GiB": (b"\x81\xa1x\xdb\xff\xff\xff\xff", 1007, "no msgpack"),
    "bytes that are no text": (b"\x81\xa2\xff\xfe\x00", 1007, "no msgpack"),
    "an extension": (b"\x81\xa1x\xd4\x05\x00", 1007, "no msgpack|extension"),
    "objects": (packed(observation=array(SEEN, dtype="|O")), 1007, "an array's type is one of"),
    "a type of Python's own": (packed(observation=array(SEEN, dtype="f8,O")), 1007, "an array's type is one of"),
    "a type that is no name": (packed(observation=array(SEEN, dtype=[1])), 1007, "an array's type is one of"),
    "complex numbers": (packed(observation=array(np.array(SEEN, complex))), 1007, "an array's type is one of"),
    "a shape that its bytes do not fill": (packed(observation=array(SEEN, shape=[4])), 1007, "not filled"),
    "a huge shape": (packed(observation=array(SEEN, shape=[2**31 - 1] * 8)), 1007, "not filled"),
    "a shape of more than is counted": (packed(observation=array(SEEN, shape=[2**63 - 1])), 1007, "whole numbers"),
    "a negative shape": (packed(observation=array(SEEN, shape=[-3])), 1007, "whole numbers"),
    "many axes": (packed(observation=array(SEEN, shape=[1] * 40 + [3])), 1007, "at most 8 whole"),
    "no entries": (packed(observation=array([])), 1007, "not filled"),
    "data that are no bytes": (packed(observation=array(SEEN, data=5)), 1007, "not filled"),
    "no observation": (packed(seed=1), 1008, "has an observation"),
    "an unknown name": (packed(observation=array(SEEN), obs=1), 1008, "'obs' is unknown"),
    "a list for an array": (packed(observation=SEEN), 1008, "an array of 3 numbers, not a list"),
    "whole numbers": (packed(observation=array([1, 2, 3])), 1008, "float32 or float64, not int64"),
    "half precision": (packed(observation=array(np.array(SEEN, np.float16))), 1008, "not float16"),
    "the wrong shape": (packed(observation=array([SEEN])), 1008, r"shape \(3,\), not \(1, 3\)"),
    "a nan": (packed(observation=array([1, NAN, 3])), 1008, "a nan"),
    "an infinity": (packed(observation=array([1, INF, 3])), 1008, "an infinity"),
    "more than float32": (packed(observation=array([1, 1e39, 3])), 1008, "a float32 can hold"),
    "a deadline that is none": (packed(observation=array(SEEN), deadline_ms=NAN), 1008, "deadline_ms: a finite"),
    "a deadline in words": (packed(observation=array(SEEN), deadline_ms="now"), 1008, "deadline_ms: a finite"),
    "a seed below 0": (packed(reset=True, seed=-1), 1008, "seed: a whole number"),
    "a seed that is huge": (packed(reset=True, seed=2**60), 1008, "seed: a whole number from 0 to below 2..53"),
    "a seed without a reset": (packed(observation=array(SEEN), seed=1), 1008, "a seed is for a reset"),
    "a reset that is a number": (packed(reset=1), 1008, "reset is true or false"),
    "a session that is no name": (packed(resume=[1]), 1008, "resume: the name"),
}


def test_what_cannot_be_used_is_refused_with_a_reason_each(url: str) -> None:
    assert b"" not in [data for data, code, _ in UNUSABLE.values() if code == 1008]
    for name, (data, code, reason) in UNUSABLE.items():
        with Raw(url) as raw:
            raw.send(data)
            found = raw.closed()
        assert found[0] == code, (name, found)
        assert re.search(reason, found[1]), (name, found)
        assert len(found[1].encode()) <= 123


FRAMES = {
    "a text": (Raw.framed(Raw.TEXT, b"hello"), 1003, "a text frame"),
    "a header that declares 2 GiB": (Raw.framed(Raw.BINARY, b"", declared=2**31), 1009, "limit"),
    "too much in one frame": (Raw.framed(Raw.BINARY, bytes(2**16)), 1009, "limit"),
    "too much in many frames": (
        Raw.framed(Raw.BINARY, bytes(3000), fin=False) + Raw.framed(Raw.CONT, bytes(3000)), 1009, "limit",
    ),
    "no mask": (b"\x82\x01x", 1002, "mask"),
    "an opcode that is none": (Raw.framed(5, b""), 1002, "opcode"),
    "compression that was not agreed on": (b"\xc2" + Raw.framed(2, b"x")[1:], 1002, "reserved"),
    "a fragment of nothing": (Raw.framed(Raw.CONT, b"x"), 1002, "continuation"),
}  # fmt: skip


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
        assert "left the finite numbers" in capsys.readouterr().err
    with Server(drawn_agent(), Limits(batch=4), width=8).running() as url, Raw(url) as raw:
        raw.send(packed(observation=seen[1], reset=True, seed=2))
        alone = unpack(raw.frame()[1])
    assert beside["server_timing"]["batch"] == 2
    assert beside["actions"].tolist() == alone["actions"].tolist()
    assert all(math.isfinite(x) for x in alone["actions"][0])
