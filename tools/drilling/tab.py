"""A page of the playground without a browser; the tests of the playground play through it as well."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect


class Tab:
    """A page as the server sees it."""

    def __init__(self, port: int, token: str = "", **headers: str) -> None:
        address = f"ws://127.0.0.1:{port}/live" + (f"?token={token}" if token else "")
        self.context = connect(address, additional_headers=headers, open_timeout=10)
        self.socket: ClientConnection = self.context.__enter__()
        self.n = 0

    def say(self, word: str, **rest: Any) -> int:
        """A message, and its number."""
        self.n += 1
        self.socket.send(json.dumps({"do": word, "n": self.n, **rest}))
        return self.n

    def hear(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = 10.0) -> dict[str, Any]:
        """The first message that is wanted; those before it are passed over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                message = self.socket.recv(timeout=max(end - time.monotonic(), 0.01))
            except TimeoutError:
                break
            words = plan_of(message) if isinstance(message, bytes) else json.loads(message)
            if wanted(words):
                return words
        raise TimeoutError("nothing of the kind was said")

    def kind(self, kind: str, seconds: float = 10.0) -> dict[str, Any]:
        """The first message of a type."""
        return self.hear(lambda words: words["type"] == kind, seconds)

    def plan(self, n: int, seconds: float = 10.0) -> dict[str, Any]:
        """The first plan that knows of message n."""
        return self.hear(lambda words: words["type"] == "plan" and words["n"] >= n, seconds)

    def close(self) -> None:
        """It leaves."""
        self.context.__exit__(None, None, None)


def plan_of(message: bytes) -> dict[str, Any]:
    """A plan as it was sent, as the page reads it."""
    length = int.from_bytes(message[:4], "little")
    head = json.loads(message[4 : 4 + length])
    head["pictures"] = np.frombuffer(message[4 + length :], "<i2").reshape(head["shape"]) / 1000
    return head
