"""What a server gives to each client, and to all of them."""

from __future__ import annotations

from dataclasses import dataclass

from kedge.errors import InputError


@dataclass(frozen=True)
class Limits:
    """How much, how many, how long. Whoever goes beyond one is told which, and the others never notice.

    batch:    requests that are done together, at most
    window:   seconds that the first of them waits for others; none where all clients have asked
    queue:    requests that wait, at most
    clients:  connections, at most
    pending:  unanswered requests of one connection, at most
    frames:   frames a second of one connection, at most
    slow:     seconds that a message may take to arrive, or an answer to be read
    idle:     seconds after which a connection without a request is closed; its episode is remembered
    remember: seconds for which the episode of a lost connection is remembered
    grace:    seconds in which what is in flight is still answered, once the server stops
    """

    batch: int = 16
    window: float = 0.002
    queue: int = 256
    clients: int = 256
    pending: int = 8
    frames: int = 2000
    slow: float = 5.0
    idle: float = 600.0
    remember: float = 60.0
    grace: float = 10.0

    def __post_init__(self) -> None:
        for name in ("batch", "queue", "clients", "pending", "frames"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("window", "slow", "idle", "remember", "grace"):
            least = 1e-3 if name in ("slow", "idle") else 0.0
            if not least <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} must be a number of seconds from {least:g} on, got {getattr(self, name)}")
