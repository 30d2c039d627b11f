"""A client of `kedge serve` for machines without torch: numpy, websockets and msgpack are all that it imports.

It is a module of this package and not a package of its own, so that what goes over the wire is written once, for both
ends, and released once. `import kedge` loads nothing, so where torch is absent `pip install --no-deps kedge` and these
three are enough.
"""

from __future__ import annotations

from kedge.extras import absent

try:
    import msgpack  # noqa: F401
    import websockets  # noqa: F401
except ModuleNotFoundError as error:
    raise absent(str(error.name), "serve", "by which clients and servers talk") from None

from kedge.client.client import Client
from kedge.client.remote import Remote
from kedge.client.said import (
    BusyError,
    ClientError,
    EpisodeLostError,
    LateError,
    NoAnswerError,
    ObservationError,
    RefusalError,
    ServerFailedError,
    UnauthorisedError,
    UnreachableError,
)

__all__ = [
    "BusyError", "Client", "ClientError", "EpisodeLostError", "LateError", "NoAnswerError", "ObservationError",
    "RefusalError", "Remote", "ServerFailedError", "UnauthorisedError", "UnreachableError",
]  # fmt: skip
