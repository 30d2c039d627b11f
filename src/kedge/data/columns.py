"""What columns of logged behaviour have to be like: checked before any long work, each failure one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from kedge.errors import InputError

CHUNK = 1 << 16
"""Steps that are looked at or written at once: what is mapped from disk need not fit into memory."""
NUMBERS = "biuf"
"""numpy's letters for the types that are kept: booleans, integers, floating point."""


def column(name: str, values: Any, where: str) -> np.ndarray:
    """One column as an array: observations and actions `[N, D]` and rewards `[N]` in float32, others as they are."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise InputError(f"{where}: {name!r} cannot name a column: use letters, digits, underscores and dots")
    if name in ("ends", "meta"):
        raise InputError(f"{where}: a column cannot be called {name!r}: the word has another meaning here")
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else _array(name, values, where)
    if array.dtype.kind not in NUMBERS:
        raise InputError(f"{where}: {name} holds {array.dtype}, no numbers")
    if name in ("observations", "actions"):
        if array.ndim != 2 or array.shape[1] == 0:
            wanted = "[N, S]" if name == "observations" else "[N, A]"
            raise InputError(f"{where}: {name} must be {wanted}, a row of numbers for each step, got {shown(array)}")
    elif name == "rewards":
        if array.ndim == 0 or array.shape[1:] not in ((), (1,)):
            raise InputError(f"{where}: rewards must be [N], one number for each step, got {shown(array)}")
        array = array.reshape(-1)
    elif array.ndim == 0:
        raise InputError(f"{where}: {name} must lead with the steps [N, ...], got a single number")
    return single(array) if name in ("observations", "actions", "rewards") else array


def _array(name: str, values: Any, where: str) -> np.ndarray:
    try:
        return np.asanyarray(values)
    except ValueError:
        raise InputError(f"{where}: {name} is ragged: its steps differ in length") from None


def shown(array: np.ndarray) -> str:
    """Its shape, for an error."""
    return "[" + ", ".join(map(str, array.shape)) + "]"


def single(array: np.ndarray) -> np.ndarray:
    """In float32; an array that is so already is not copied. What does not fit becomes infinite, then refused."""
    if array.dtype == np.float32:
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def checked_ends(ends: Any, count: int, where: str) -> Int64[np.ndarray, " e"]:
    """Exclusive ends of episodes: ascending, each episode with at least a step, the last one at the end of the data."""
    if count == 0:
        raise InputError(f"{where}: empty, there is not a single step")
    found = ends.detach().cpu().numpy() if isinstance(ends, Tensor) else np.asarray(ends)
    if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
        raise InputError(f"{where}: ends must be [E] whole numbers, got {found.dtype} {shown(found)}")
    found = found.astype(np.int64)
    lengths = np.diff(found, prepend=0)
    if (lengths < 1).any():
        e = int((lengths < 1).argmax())
        before = f"after {found[e - 1]}" if e else "first"
        raise InputError(f"{where}: ends must ascend from 1 on, but episode {e} ends at {found[e]}, {before}")
    if found[-1] != count:
        raise InputError(f"{where}: the last episode ends at {found[-1]}, but there are {count} steps")
    return found


def refuse_nonfinite(name: str, values: np.ndarray, where: str) -> None:
    """Says how many numbers are infinite or nan, and where the first one is."""
    if values.dtype.kind != "f":
        return
    bad, first = 0, None
    for begin in range(0, len(values), CHUNK):
        odd = ~np.isfinite(values[begin : begin + CHUNK])
        if not odd.any():
            continue
        bad += int(odd.sum())
        if first is None:
            place = np.argwhere(odd)[0]
            first = f"step {begin + place[0]}" + "".join(f", dimension {d}" for d in place[1:])
    if bad:
        raise InputError(f"{where}: {name} holds {bad} numbers that are infinite or nan, the first at {first}")


def plain_provenance(provenance: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """As JSON gives it back."""
    try:
        return json.loads(json.dumps(dict(provenance or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: provenance is for what JSON can hold ({error})") from None
