"""A served agent as a controller, so that the evaluation loop scores what clients get."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kedge.client.client import Client


class Remote:
    """Acts in many episodes at once, each over a connection of its own: `kedge.evaluate(Remote(url), maze)`.

    The arguments are those of `Client`.
    """

    label = "served"

    def __init__(self, url: str = "ws://127.0.0.1:8000", token: str | None = None, **options: Any) -> None:
        self.url, self.token, self.options = url, token, options
        self.plans: list[Any] = []
        self.clients: list[Client] = []

    def reset(self, seeds: Sequence[int]) -> None:
        """Begins an episode for each seed."""
        self.close()
        self.clients = [Client(self.url, self.token, **self.options) for _ in seeds]
        self._pool = ThreadPoolExecutor(max(1, len(self.clients)))
        list(self._pool.map(Client.reset, self.clients, map(int, seeds)))

    def act(self, observations: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Asks for all that are still active, at once."""
        who = np.flatnonzero(active)
        actions = np.zeros((len(active), *self.clients[0].metadata["actions"]["shape"][1:]))
        found = list(self._pool.map(Client.act, [self.clients[i] for i in who], observations[who]))
        if found:
            actions[who] = np.stack(found)
        return actions

    def close(self) -> None:
        """Ends all connections."""
        if self.clients:
            self._pool.shutdown()
        for client in self.clients:
            client.close()
        self.clients = []
