"""Messages and frames that no client of ours would send, to `kedge serve`."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from drilling.healthy import RUN, WIDTH, Actor
from drilling.hostile import DEEP, FRAMES, WIDE, Raw, array, packed, unusable
from drilling.meeting import CLOSE, Meeting, Visit
from drilling.sources.broken import WAYS
from drilling.sources.given import Given

SEEN = [1.0, 2.0, 0.25, -0.5]
GOOD = packed(observation=array(SEEN))
UNUSABLE = {name: data for name, (data, _, _) in unusable(SEEN).items()}
UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
HANDSHAKES = (
    *(b"", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00\xff" * 50),
    *(UPGRADE + b"\r\n", UPGRADE + b"Sec-WebSocket-Key: short\r\nSec-WebSocket-Version: 13\r\n\r\n"),
    *(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"\r\n"),
    *(b"GET /%00%ff/../../etc HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n"),
    b"\x16\x03\x01\x02\x00\x01" * 30,
)
VALID = (
    {"observation": array(SEEN), "deadline_ms": -1e308},
    {"observation": array(SEEN), "deadline_ms": 1e-300},
    {"observation": array(SEEN), "reset": True, "seed": 2**53 - 1, "id": 2**63 - 1},
    {"observation": array(np.array(SEEN, np.float32))},
    {"resume": "nobody's"},
    {"reset": True},
)
"""Odd, and nothing to be said against."""


def draw(rng: random.Random, place: Path) -> Given:
    """A server, one to four strangers, and an episode beside them that never notices."""
    visits = [visit(rng) for _ in range(rng.choice((1, 1, 2, 4)))]
    batch = rng.choice((1, 4, 16))
    args = ["serve", RUN, "--port", "0", "--batch", str(batch), "--width", str(WIDTH), "--grace", "1"]
    return Given(args, "; ".join(one.what for one in visits), Meeting("/", visits, lambda: Actor(batch)))


def visit(rng: random.Random) -> Visit:
    """One stranger."""
    return rng.choice((_message, _message, _altered, _altered, _frame, _broken, _broken, _extreme, _flood, greeting))(
        rng
    )


def _message(rng: random.Random) -> Visit:
    """A message that says what cannot be done, or something that just can."""
    if rng.random() < 0.2:
        at = rng.randrange(len(VALID))
        return Visit(f"odd message {at}", Raw.framed(Raw.BINARY, packed(**VALID[at])))
    name = rng.choice(list(UNUSABLE))
    return Visit(name, Raw.framed(Raw.BINARY, UNUSABLE[name]))


def _altered(rng: random.Random) -> Visit:
    """A message that was good."""
    way = rng.choice(WAYS)
    data = way(rng, packed(observation=array(SEEN), reset=True, seed=3, id=7, deadline_ms=1e4))
    return Visit(f"a message {way.__name__}: {data.hex()}", Raw.framed(Raw.BINARY, data), fails=True)


def _frame(rng: random.Random) -> Visit:
    """A frame that is none."""
    name = rng.choice(list(FRAMES))
    return Visit(name, FRAMES[name][0])


def _broken(rng: random.Random) -> Visit:
    """A frame that was one, or half of one, whose sender stays or is gone."""
    return broken(
        rng, Raw.framed(rng.choice((Raw.BINARY, Raw.TEXT, Raw.PING, CLOSE)), rng.choice((GOOD, DEEP, WIDE, b"x")))
    )


def broken(rng: random.Random, frame: bytes) -> Visit:
    """A frame broken as bytes."""
    way = rng.choice(WAYS)
    data, stays = way(rng, frame), rng.random() < 0.3
    closes = any(byte & 15 == CLOSE for byte in data)  # wherever it is taken to begin
    return Visit(f"a frame {way.__name__}: {data[:300].hex()}", data, closes=closes, fails=True, stays=stays)


def _extreme(rng: random.Random) -> Visit:
    """Numbers that a float32 just holds: the networks make nonsense of them."""
    seen = [rng.choice((3e38, -3e38, 1e30, 1e-45, 1e9, 0.0)) for _ in SEEN]
    return Visit(f"extremes {seen}", Raw.framed(Raw.BINARY, packed(observation=array(seen))), fails=True)


def _flood(rng: random.Random) -> Visit:
    """More than anyone answers, or reads."""
    what, frame, count = rng.choice(
        (("pings", Raw.framed(Raw.PING, bytes(125)), 20_000), ("requests", Raw.framed(2, GOOD), 3000))
    )
    return Visit(f"{count} {what}, and nothing read", frame * count, mute=True)


def greeting(rng: random.Random) -> Visit:
    """Something else than a handshake."""
    data = rng.choice(HANDSHAKES) if rng.random() < 0.7 else rng.randbytes(rng.choice((1, 50, 3000)))
    return Visit(f"a greeting: {data[:80]!r}", data, open=False, stays=rng.random() < 0.3)
