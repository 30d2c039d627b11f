"""A websocket that looks after itself: floods, trickles, and clients that do not read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import Server, ServerConnection
from websockets.frames import DATA_OPCODES, CloseCode, Frame
from websockets.protocol import CLOSING, OPEN
from websockets.server import ServerProtocol

from kedge.run.serve.limits import Limits

SLICE = 4096
"""Bytes that are looked at before others get their turn to be refused: some 700 frames at most."""
UNREAD = 2**16
"""Bytes of answers that may wait to be read, here and once more in the system."""
SPARE = 32
"""Connections beyond the limit that may be open while they are told so."""
PARTING = 2.0
"""Seconds for a client to hang up, once it was told to."""
REASON = 123
"""Bytes of a reason, by the protocol."""


class GuardedConnection(ServerConnection):
    """A connection within `Limits`. What goes beyond them is closed with a code and a reason, once; whatever else
    arrives is thrown away unread, and a client that does not hang up is cut off. `told` hears the codes.
    """

    def __init__(
        self, limits: Limits, told: Callable[[int], None], protocol: ServerProtocol, server: Server, **options: Any
    ) -> None:
        super().__init__(protocol, server, **options)
        self.limits, self.told = limits, told
        self.frames = self.messages = 0
        self._allowed, self._since = float(limits.frames), 0.0
        self._trickle: asyncio.TimerHandle | None = None
        self._parting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """One too many is not spoken to."""
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD)
        self._since = self.loop.time()
        if len(self.server.handler_tasks) > self.limits.clients + SPARE:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer is left behind."""
        for timer in (self._trickle, self._parting):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A slice at a time, each followed by a look at the limits."""
        for first in range(0, len(data), SLICE):
            frames, messages = self.frames, self.messages
            super().data_received(data[first : first + SLICE])
            if self.protocol.state is OPEN:
                self._look(self.frames - frames, self.messages - messages)
            if self.protocol.state is CLOSING:
                self._part()

    def process_event(self, event: Any) -> None:
        """Counts frames, and messages that are complete."""
        if self.request is not None and isinstance(event, Frame):
            self.frames += 1
            self.messages += event.opcode in DATA_OPCODES and event.fin
        super().process_event(event)

    def refuse(self, code: int, reason: str) -> None:
        """Closes at once; nothing that arrives from now on is read."""
        if self.protocol.state is OPEN:
            self.protocol.fail(CloseCode(code), short(reason))
            self.send_data()
            self._part()

    def _look(self, frames: int, messages: int) -> None:
        """At what has come in, and at what has not gone out."""
        now, most = self.loop.time(), self.limits.frames
        self._allowed = min(most, self._allowed + most * (now - self._since)) - frames
        self._since = now
        if self._allowed < 0:
            self.refuse(CloseCode.POLICY_VIOLATION, f"a flood: more than {most} frames a second")
        elif self.transport.get_write_buffer_size() > UNREAD:
            self.refuse(CloseCode.POLICY_VIOLATION, f"more than {UNREAD // 1024} KiB of answers are not read")
        else:
            self._time(frames, messages)

    def _time(self, frames: int, messages: int) -> None:
        """A message has so many seconds from its first byte to its last."""
        begun = self.protocol.current_size is not None or len(self.protocol.reader.buffer) > 0 or not frames
        if self._trickle is not None and (messages or not begun):
            self._trickle.cancel()
            self._trickle = None
        if begun and self._trickle is None:
            reason = f"a message took more than {self.limits.slow:g} s to arrive"
            self._trickle = self.loop.call_later(self.limits.slow, self.refuse, int(CloseCode.POLICY_VIOLATION), reason)

    def _part(self) -> None:
        """Cuts the connection off, if nobody hangs up. `told` hears the code, where it was us who closed."""
        if self._parting is None:
            sent = self.protocol.close_sent
            if sent is not None and not self.protocol.close_rcvd_then_sent:
                self.told(sent.code)
            self._parting = self.loop.call_later(PARTING, self.transport.abort)


def short(reason: str) -> str:
    """As much of it as fits into a close frame."""
    data = reason.encode()
    return reason if len(data) <= REASON else data[: REASON - 3].decode(errors="ignore") + "..."
