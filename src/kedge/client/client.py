"""One episode after another over one connection, which is made again where it is lost."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from kedge.client.said import (
    EpisodeLostError,
    NoAnswerError,
    ObservationError,
    ServerFailedError,
    UnauthorisedError,
    UnreachableError,
    refusal,
)
from kedge.client.wire import pack, unpack

LARGEST = 2**24
"""Bytes of an answer."""
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between two tries to connect; the last one is repeated."""


class Client:
    """Asks a server for actions. One thread at a time may use it.

    A lost connection is made again, and the episode goes on where it was, as long as the server remembers it: a request
    that was answered already is not done twice.

    Args:
        url: of the server.
        token: what it lets in, if it wants one.
        timeout: seconds to wait for an answer.
        patience: seconds to try, before a server counts as gone.
    """

    def __init__(
        self,
        url: str = "ws://127.0.0.1:8000",
        token: str | None = None,
        *,
        timeout: float = 10.0,
        patience: float = 10.0,
    ) -> None:
        self.url, self.token, self.timeout, self.patience = url, token, float(timeout), float(patience)
        self.timing: dict[str, float] = {}
        self.seed: int | None = None
        self._asked, self._begun = 0, False
        self._opened = ExitStack()
        self._socket: ClientConnection | None = None
        self._session = self._connect()

    def reset(self, seed: int | None = None) -> int:
        """Begins an episode; without a seed the server chooses one. Returns it."""
        told = {} if seed is None else {"seed": int(seed)}
        self.seed = int(self._ask({"reset": True, **told}, None)["seed"])
        return self.seed

    def act(self, observation: Any, deadline: float | None = None) -> np.ndarray:
        """The action for what is seen now. The first call begins an episode, if `reset` has not.

        Args:
            observation: as many finite numbers as `metadata["observation"]["shape"]` says.
            deadline: seconds within which the action is of use; `LateError` where it cannot be had by then.
        """
        told = {} if deadline is None else {"deadline_ms": 1000.0 * deadline}
        return self._ask({"observation": self._checked(observation), **told}, deadline)["actions"][0].copy()

    def close(self) -> None:
        """Ends the connection."""
        self._opened.close()
        self._socket = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Asking

    def _checked(self, observation: Any) -> np.ndarray:
        """As it is sent: what the server would hang up for is said here."""
        seen = np.asarray(observation, dtype=np.float64)
        shape = tuple(self.metadata["observation"]["shape"])
        if seen.shape != shape:
            raise ObservationError(f"an observation of this agent has shape {shape}, got {seen.shape}")
        if not np.isfinite(seen).all():
            raise ObservationError("an observation with a nan or an infinity in it")
        return seen

    def _ask(self, message: dict[str, Any], deadline: float | None) -> dict[str, Any]:
        """The answer to it, over as many connections as it takes."""
        self._asked += 1
        began = time.monotonic()
        while True:
            spent = time.monotonic() - began
            if deadline is not None:
                message["deadline_ms"] = 1000.0 * (deadline - spent)
            try:
                if self._socket is None:
                    self._reconnect(resume=self._begun and "reset" not in message)
                return self._exchange(pack({"id": self._asked, **message}), began + self.timeout)
            except ConnectionClosed as error:
                self._lost(error)

    def _exchange(self, message: bytes, until: float) -> dict[str, Any]:
        assert self._socket is not None
        self._socket.send(message)
        while True:
            answer = self._heard(until)
            if answer.get("id") == self._asked:  # others are late answers, to what is no longer waited for
                break
        if "refused" in answer:
            raise refusal(answer["refused"], answer["why"], bool(answer.get("counted")))
        self._begun = True
        self.timing = answer.get("server_timing", {})
        return answer

    def _heard(self, until: float) -> dict[str, Any]:
        assert self._socket is not None
        try:
            data = self._socket.recv(timeout=max(0.0, until - time.monotonic()))
        except TimeoutError:
            raise NoAnswerError(f"{self.url} has not answered within {self.timeout:g} s") from None
        return json.loads(data) if isinstance(data, str) else unpack(data)

    # Connections

    def _connect(self) -> str:
        """A new connection: hears what the server is, and returns the session that it has begun."""
        headers = {"Authorization": f"Api-Key {self.token}"} if self.token else None
        until, tries = time.monotonic() + self.patience, 0
        self._opened.close()
        while True:
            try:
                self._socket = self._opened.enter_context(connect(
                    self.url, additional_headers=headers, compression=None, max_size=LARGEST,
                    open_timeout=self.timeout, close_timeout=1.0, proxy=None,
                ))  # fmt: skip
                self.metadata = self._heard(time.monotonic() + self.timeout)
                return self.metadata["session"]
            except (OSError, InvalidHandshake, ConnectionClosed) as error:
                if isinstance(error, InvalidStatus):
                    self._turned_away(error)
                if time.monotonic() > until:
                    raise UnreachableError(f"{self.url} cannot be reached ({_said(error)})") from None
            time.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1

    def _reconnect(self, resume: bool) -> None:
        """A new connection, which goes on with the old one's episode if there is any need."""
        session, self._session = self._session, self._connect()
        if not resume:
            return
        assert self._socket is not None
        self._socket.send(pack({"resume": session}))
        answer = self._heard(time.monotonic() + self.timeout)
        self._begun = "refused" not in answer
        if not self._begun:
            raise EpisodeLostError(answer["why"])
        self._session = session

    def _turned_away(self, error: InvalidStatus) -> None:
        """What no further try can mend."""
        said = (error.response.body or b"").decode(errors="replace").strip()
        if error.response.status_code == 401:
            raise UnauthorisedError(said or "the server wants a token") from None
        if error.response.status_code != 503:  # a server that is full, or stops, may have room or a successor
            raise UnreachableError(f"{self.url}: {error.response.status_code} {said}") from None

    def _lost(self, error: ConnectionClosed) -> None:
        """Raises what the server has closed the connection for, if it was for a reason; else it is made again."""
        self._socket = None
        code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
        if code in (1002, 1003, 1007, 1008, 1009):
            raise ObservationError(reason or f"closed with code {code}") from None
        if code == 1011 and "keepalive" not in reason:
            raise ServerFailedError(reason) from None


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
