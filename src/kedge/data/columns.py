"""What columns of logged behaviour have to be like: checked before any long work, each failure one line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from kedge.errors import InputError

CHUNK = 1 << 16
"""Steps that are looked at or written at once: what is mapped from disk need not fit into memory."""
WIDE = 64
"""Numbers in a step of which so many steps are looked at; of wider columns, such as images, fewer."""
NUMBERS = "biuf"
"""numpy's letters for the types that are kept: booleans, integers, floating point."""
WHOLE = ("observations", "actions", "rewards")
"""The columns that have a meaning of their own; all others are kept as they come."""
WORDS = ("ends", "meta", "provenance", "finite", "where", "cls")
"""What no column can be called: files of a folder, and arguments of `Trajectories.of`."""


def may_name(name: str) -> bool:
    """Whether a further column can be called so."""
    return name not in (*WHOLE, *WORDS) and _is_plain(name)


def check_name(name: str, where: str) -> None:
    """Refuses what no column can be called."""
    if not _is_plain(name):
        raise InputError(f"{where}: {name!r} cannot name a column: use letters, digits, underscores and dots")
    if name in WORDS:
        raise InputError(f"{where}: a column cannot be called {name!r}: the word has another meaning here")


def _is_plain(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def at_once(values: np.ndarray) -> int:
    """How many steps of a column are looked at at once: `CHUNK`, unless a step holds very many numbers."""
    width = max(math.prod(values.shape[1:]), 1)
    return max(min(CHUNK, CHUNK * WIDE // width), 1)


def column(name: str, values: Any, where: str) -> np.ndarray:
    """One column as an array: observations and actions `[N, D]` and rewards `[N]` in float32, others as they are."""
    check_name(name, where)
    array = _array(name, values, where)
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
    return single(array) if name in WHOLE else array


def _array(name: str, values: Any, where: str) -> np.ndarray:
    if isinstance(values, Tensor):
        # numpy has no bfloat16; float32 holds its numbers exactly.
        return (values.float() if values.dtype == torch.bfloat16 else values).detach().cpu().numpy()
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
    found = _array("ends", ends, where)
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
    bad, first, size = 0, None, at_once(values)
    for begin in range(0, len(values), size):
        odd = ~np.isfinite(values[begin : begin + size])
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
