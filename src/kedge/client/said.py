"""What a client may hear instead of an action, each as an error of its own."""

from __future__ import annotations


class ClientError(Exception):
    """Whatever can go wrong between a client and its server."""


class UnreachableError(ClientError):
    """There is no server, or none that lets us in, for as long as the client was told to try."""


class UnauthorisedError(ClientError):
    """The server wants a token, and not the one that was given."""


class NoAnswerError(ClientError, TimeoutError):
    """No answer in time. Whether the server has counted the step cannot be known: begin a new episode if it matters."""


class EpisodeLostError(ClientError):
    """The connection was lost, and the server no longer knows the episode: begin a new one."""


class ObservationError(ClientError, ValueError):
    """What was sent is no observation of this agent, or no request at all."""


class ServerFailedError(ClientError):
    """The agent failed on the server's side; its log says how."""


class RefusalError(ClientError):
    """The server did not do what it was asked, and says why. The connection stays.

    counted: whether the episode has moved on by a step all the same
    """

    def __init__(self, why: str, counted: bool = False) -> None:
        super().__init__(why)
        self.counted = counted


class LateError(RefusalError):
    """It could not be done, or was not done, by when it was wanted."""


class BusyError(RefusalError):
    """Too many requests wait already."""


def refusal(kind: str, why: str, counted: bool) -> ClientError:
    """As the server has put it."""
    if kind == "lost":
        return EpisodeLostError(why)
    return {"late": LateError, "busy": BusyError}.get(kind, RefusalError)(why, counted)
