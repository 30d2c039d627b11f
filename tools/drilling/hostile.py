"""What nobody should send to a server, and a socket to send it by; the tests of the servers send the same."""

from __future__ import annotations

import base64
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np


class Raw:
    """A socket on which anything can be sent, after a handshake or without one."""

    TEXT, BINARY, CONT, PING = 1, 2, 0, 9

    def __init__(
        self, url: str, handshake: bool = True, buffer: int | None = None, path: str = "/", **headers: str
    ) -> None:
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
            self.socket.sendall(f"GET {path} HTTP/1.1\r\n{lines}Sec-WebSocket-Version: 13\r\n\r\n".encode())
            while b"\r\n\r\n" not in self.got:
                self.got += self.socket.recv(4096)
            head, _, self.got = self.got.partition(b"\r\n\r\n")
            if b" 101 " not in head:
                self.socket.close()
                raise ConnectionRefusedError(head.decode())
            assert self.frame()[0] in (self.BINARY, self.TEXT), "what a server says first"

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
        """A frame."""
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
    """A message of these names."""
    data = msgpack.packb(message)
    assert isinstance(data, bytes)
    return data


NAN, INF = float("nan"), float("inf")
DEEP = b"\x91" * 4000 + b"\x00"
WIDE = b"\xdc\x3f\xff" * 1000
"""Lists in lists, each of which declares 16383 entries."""


def unusable(seen: Sequence[float]) -> dict[str, tuple[bytes, int, str]]:
    """Messages to a server whose observations are like `seen`; the codes and the reasons with which it refuses them."""
    size, good = len(seen), packed(observation=array(seen))
    return {
        "nothing": (b"", 1007, "no msgpack"),
        "half a message": (good[: len(good) // 2], 1007, "no msgpack"),
        "more than a message": (good + b"\x00", 1007, "no msgpack"),
        "no map": (msgpack.packb([1, 2]) or b"", 1007, "a map from names"),
        "keys that are no names": (msgpack.packb({b"observation": 1}) or b"", 1007, "a map from names"),
        "deep nesting": (DEEP, 1007, "nested too deeply|no msgpack"),
        "lists that declare much": (WIDE, 1007, "no msgpack"),
        "a list that declares 4 billion entries": (b"\x81\xa1x\xdd\xff\xff\xff\xff", 1007, "no msgpack"),
        "a string that declares 4 GiB": (b"\x81\xa1x\xdb\xff\xff\xff\xff", 1007, "no msgpack"),
        "bytes that are no text": (b"\x81\xa2\xff\xfe\x00", 1007, "no msgpack"),
        "an extension": (b"\x81\xa1x\xd4\x05\x00", 1007, "no msgpack|extension"),
        "objects": (packed(observation=array(seen, dtype="|O")), 1007, "an array's type is one of"),
        "a type of Python's own": (packed(observation=array(seen, dtype="f8,O")), 1007, "an array's type is one of"),
        "a type that is no name": (packed(observation=array(seen, dtype=[1])), 1007, "an array's type is one of"),
        "complex numbers": (packed(observation=array(np.array(seen, complex))), 1007, "an array's type is one of"),
        "a shape that its bytes do not fill": (packed(observation=array(seen, shape=[size + 1])), 1007, "not filled"),
        "a huge shape": (packed(observation=array(seen, shape=[2**31 - 1] * 8)), 1007, "not filled"),
        "a shape of more than is counted": (packed(observation=array(seen, shape=[2**63 - 1])), 1007, "whole numbers"),
        "a negative shape": (packed(observation=array(seen, shape=[-size])), 1007, "whole numbers"),
        "many axes": (packed(observation=array(seen, shape=[1] * 40 + [size])), 1007, "at most 8 whole"),
        "no entries": (packed(observation=array([])), 1007, "not filled"),
        "data that are no bytes": (packed(observation=array(seen, data=5)), 1007, "not filled"),
        "no observation": (packed(seed=1), 1008, "has an observation"),
        "an unknown name": (packed(observation=array(seen), obs=1), 1008, "'obs' is unknown"),
        "a list for an array": (packed(observation=seen), 1008, f"an array of {size} numbers, not a list"),
        "whole numbers": (packed(observation=array([1] * size)), 1008, "float32 or float64, not int64"),
        "half precision": (packed(observation=array(np.array(seen, np.float16))), 1008, "not float16"),
        "the wrong shape": (packed(observation=array([seen])), 1008, rf"shape \({size},\), not \(1, {size}\)"),
        "a nan": (packed(observation=array([NAN, *seen[1:]])), 1008, "a nan"),
        "an infinity": (packed(observation=array([INF, *seen[1:]])), 1008, "an infinity"),
        "more than float32": (packed(observation=array([1e39, *seen[1:]])), 1008, "a float32 can hold"),
        "a deadline that is none": (packed(observation=array(seen), deadline_ms=NAN), 1008, "deadline_ms: a finite"),
        "a deadline in words": (packed(observation=array(seen), deadline_ms="now"), 1008, "deadline_ms: a finite"),
        "a seed below 0": (packed(reset=True, seed=-1), 1008, "seed: a whole number"),
        "a seed that is huge": (packed(reset=True, seed=2**60), 1008, "seed: a whole number from 0 to below 2..53"),
        "a seed without a reset": (packed(observation=array(seen), seed=1), 1008, "a seed is for a reset"),
        "a reset that is a number": (packed(reset=1), 1008, "reset is true or false"),
        "a session that is no name": (packed(resume=[1]), 1008, "resume: the name"),
    }


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
"""Frames to a server that reads binary ones, the codes and the reasons with which it refuses them."""
SENSELESS: list[tuple[str | bytes, str]] = [
    (b"\x00", "a message is text"),
    ("{", "cannot be read as JSON"),
    ("[" * 5000, "cannot be read as JSON"),
    ("[]", "with a word under 'do'"),
    ('{"do": 3}', "with a word under 'do'"),
    ('{"do": "dance"}', "no command 'dance'; known are goal"),
    ('{"do": "clear", "n": -1}', "n counts"),
    ('{"do": "clear", "n": true}', "n counts"),
    ('{"do": "goal"}', "the goal is 2 numbers"),
    ('{"do": "goal", "at": [1]}', "the goal is 2 numbers"),
    ('{"do": "goal", "at": [1, "2"]}', "the goal is 2 numbers"),
    ('{"do": "goal", "at": [1, NaN]}', "the goal is 2 numbers"),
    ('{"do": "goal", "at": [1, 1e300]}', "the goal is 2 numbers"),
    ('{"do": "draw"}', "a mark is an object"),
    ('{"do": "draw", "mark": {"kind": "wall"}}', "an id of 1 to 32"),
    ('{"do": "draw", "mark": {"id": "a", "kind": "moat"}}', "got 'moat'"),
    ('{"do": "draw", "mark": {"id": "a", "kind": ["wall"]}}', "a mark is a wall"),
    ('{"do": "draw", "mark": {"id": "a", "kind": "wall", "box": [1, 2, 3]}}', "the box of a wall is 4 numbers"),
    ('{"do": "draw", "mark": {"id": "a", "kind": "way", "points": [[1, 2]]}}', "has 2 to 64 points"),
    ('{"do": "draw", "mark": {"id": "a", "kind": "come", "points": [[1, 2], [3, 4]]}}', "has 1 to 1 points"),
    ('{"do": "set", "name": "candidates", "value": 0}', "candidates is a whole number from 1 to 128, got 0"),
    ('{"do": "set", "name": "candidates", "value": 2.5}', "a whole number"),
    ('{"do": "set", "name": "speed", "value": "fast"}', "speed is a number from 0.05 to 4"),
    ('{"do": "set", "name": "paused", "value": 1}', "paused is true or false"),
    ('{"do": "set", "name": "solver", "value": "rk4"}', "solver is one of 2m, 3m"),
    ('{"do": "set", "name": ["solver"], "value": "rk4"}', "there is no setting"),
    ('{"do": "set", "name": "colour", "value": 1}', "there is no setting 'colour'"),
]  # fmt: skip
"""Messages to the playground, and why they are refused."""
