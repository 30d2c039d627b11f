"""What a client may ask, and how it is read: strictly, for it may have been written by anyone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from kedge.client.wire import unpack

NAMES = ("observation", "reset", "seed", "deadline_ms", "id", "resume")
SEEDS = 2**53
"""Seeds are below this: a number that every language has."""


class RequestError(ValueError):
    """A message that is well formed and cannot be used."""


@dataclass(frozen=True)
class Request:
    """One message.

    observation: what is seen, or None where nothing is to be done but a reset
    reset:       whether an episode begins before it
    seed:        of that episode
    deadline:    seconds from the arrival within which an answer is of use
    number:      by which the client knows the answer again
    resume:      the session to go on with
    """

    observation: Float[np.ndarray, " s"] | None = None
    reset: bool = False
    seed: int | None = None
    deadline: float | None = None
    number: int | None = None
    resume: str | None = None


def read(data: bytes, size: int) -> Request:
    """A request about observations of `size` numbers. `WireError` where these bytes are no message, `RequestError`
    where the message is none that can be used.
    """
    found = unpack(data)
    if unknown := sorted(found.keys() - set(NAMES)):
        raise RequestError(f"{unknown[0][:20]!r} is unknown here; known are {', '.join(NAMES)}")
    seen = _observation(found["observation"], size) if "observation" in found else None
    if seen is None and "reset" not in found and "resume" not in found:
        raise RequestError("a request has an observation, or a reset")
    reset = found.get("reset", False)
    if type(reset) is not bool:
        raise RequestError("reset is true or false")
    seed = _whole(found, "seed", SEEDS)
    if seed is not None and not reset:
        raise RequestError("a seed is for a reset")
    return Request(seen, reset, seed, _deadline(found), _whole(found, "id", 2**63), _resume(found))


def _observation(value: Any, size: int) -> Float[np.ndarray, " s"]:
    if not isinstance(value, np.ndarray):
        raise RequestError(f"observation: an array of {size} numbers, not a {type(value).__name__}")
    if value.dtype not in (np.float32, np.float64):
        raise RequestError(f"observation: float32 or float64, not {value.dtype}")
    if value.shape != (size,):
        raise RequestError(f"observation: shape ({size},), not {value.shape}")
    seen = value.astype(np.float64)
    if not (np.abs(seen) <= np.finfo(np.float32).max).all():  # networks compute in float32; a nan is not below either
        raise RequestError("observation: a nan, an infinity, or more than a float32 can hold")
    return seen


def _whole(found: dict[str, Any], name: str, limit: int) -> int | None:
    value = found.get(name)
    if value is not None and (type(value) is not int or not 0 <= value < limit):
        raise RequestError(f"{name}: a whole number from 0 to below 2**{limit.bit_length() - 1}")
    return value


def _deadline(found: dict[str, Any]) -> float | None:
    value = found.get("deadline_ms")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating) or not math.isfinite(value):
        raise RequestError("deadline_ms: a finite number of milliseconds")
    return float(value) / 1000


def _resume(found: dict[str, Any]) -> str | None:
    value = found.get("resume")
    if value is not None and (not isinstance(value, str) or len(found) != 1):
        raise RequestError("resume: the name of a session, in a message of its own")
    return value
