"""A server at work, strangers who send it what nobody should, and beside them a client who means well."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from drilling.hostile import Raw

UP = 60.0
"""Seconds within which a server listens, on a machine that others share."""
HEARS, MUTE = 0.4, 2.0
"""Seconds that a stranger waits for a word, and for room to send more."""
CLOSE = 8
CODES = (1001, 1002, 1003, 1007, 1008, 1009, 1011)
"""With which a connection may be closed by a server."""
REASON = 123
"""Bytes of a reason, by the protocol."""
LINES = 40
"""That a server may write about all that it meets."""


class Healthy(Protocol):
    """A client who means well, in a thread of its own from `begin` to `end`."""

    def begin(self, url: str) -> None:
        """Has its first answer before this returns."""
        ...

    def end(self, place: Path) -> str:
        """What was wrong with its answers, by what the agent in `place` says in this process."""
        ...


@dataclass(frozen=True)
class Visit:
    """Somebody who comes to see a server.

    what:   is sent
    data:   the bytes, after the handshake if there is one
    open:   whether there is a handshake
    closes: whether what is sent may itself say farewell, which needs no reason
    mute:   whether the server may cut it off without a word: it floods, or it does not listen
    fails:  whether the agent itself may fail on it
    stays:  whether it leaves its connection open to the end
    """

    what: str
    data: bytes
    open: bool = True
    closes: bool = False
    mute: bool = False
    fails: bool = False
    stays: bool = False

    def pay(self, url: str, path: str, left: ExitStack) -> tuple[bool, str]:
        """Whether it was refused, and what was wrong with how."""
        try:
            raw = Raw(url, self.open, 4096 if self.mute else None, path, Host=url.removeprefix("ws://"))
        except ConnectionError as error:
            return False, f"{self.what}: it was not let in ({error})"
        left.callback(raw.socket.close)
        raw.socket.settimeout(MUTE if self.mute else HEARS)
        try:
            raw.socket.sendall(self.data)
            refused, odd = self._hears(raw) if self.open else (self._told(raw), "")
        except (ConnectionError, TimeoutError) as error:
            refused, odd = True, "" if self.mute or not self.open else f"cut off without a word ({error})"
        if not self.stays:
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no farewell
            raw.socket.close()
        return refused, odd and f"{self.what}: {odd}"

    def _hears(self, raw: Raw) -> tuple[bool, str]:
        """Until it is refused, or has waited."""
        until = time.monotonic() + HEARS
        while time.monotonic() < until:
            try:
                opcode, payload = raw.frame()
            except TimeoutError:
                break
            if opcode == CLOSE:
                return True, "" if self.closes else self._judged(payload)
            if opcode == Raw.TEXT and b'"refused"' in payload:
                return True, "" if _says_why(payload) else f"refused without a line that says why: {payload[:200]!r}"
        return False, ""

    def _judged(self, payload: bytes) -> str:
        """What is wrong with how the server closes."""
        code = struct.unpack("!H", payload[:2])[0] if len(payload) > 1 else 0
        reason = payload[2:].decode(errors="replace")
        if code not in CODES or (code == 1011 and not self.fails):
            return f"closed with {code} {reason!r}"
        lines = reason.splitlines()
        return (
            "" if len(lines) == 1 and len(payload) - 2 <= REASON else f"closed with {code}, and no reason: {reason!r}"
        )

    def _told(self, raw: Raw) -> bool:
        """Whether it was refused as HTTP refuses, or hung up on."""
        said = b""
        with suppress(ConnectionError):
            while more := raw.socket.recv(4096):
                said += more
        return not said or re.match(rb"HTTP/1\.[01] [2-5]\d\d ", said) is not None


def _says_why(payload: bytes) -> bool:
    why = json.loads(payload).get("why")
    return isinstance(why, str) and len(why.splitlines()) == 1 and 5 <= len(why) <= 1500


@dataclass
class Met:
    """What came of it."""

    odd: str = ""
    refused: int = 0
    said: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Meeting:
    """Strangers, one after the other, and somebody beside them.

    path:    of the websocket
    visits:  the strangers
    healthy: the one beside them
    """

    path: str
    visits: Sequence[Visit]
    healthy: Callable[[], Healthy]

    def held(self, met: Met) -> Callable[[Path, Callable[[], bool]], None]:
        """While the server is up; what comes of it goes into `met`."""

        def during(log: Path, alive: Callable[[], bool]) -> None:
            url = address(log, alive)
            if url is None:
                met.odd = "it does not listen"
                return
            beside = self.healthy()
            beside.begin(url)
            with ExitStack() as left:
                for visit in self.visits:
                    refused, odd = visit.pay(url, self.path, left)
                    met.refused += refused
                    met.odd = met.odd or odd
                    met.said.append(f"{visit.what}: {'refused' if refused else 'taken'}")
                met.odd = met.odd or beside.end(log.parent)

        return during


def address(log: Path, alive: Callable[[], bool]) -> str | None:
    """Where the server listens, as soon as it says so."""
    until = time.monotonic() + UP
    while time.monotonic() < until and alive():
        if found := re.search(r"(?:ws|http)://(127\.0\.0\.1:\d+)", log.read_text(encoding="utf-8", errors="replace")):
            return f"ws://{found[1]}"
        time.sleep(0.02)
    return None


def unseemly(err: str) -> str:
    """What is wrong with what a server has written."""
    if "Traceback (most recent call last)" in err:
        return "a traceback in the server's log"
    lines = err.strip().splitlines()
    if len(lines) > LINES or any(len(line) > 1500 for line in lines):
        return f"{len(lines)} lines in the server's log, the longest of {max(map(len, lines))} characters"
    return ""
