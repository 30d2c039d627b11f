"""Finds the columns of trajectories among arrays that somebody else has named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from kedge.data.columns import NUMBERS, may_name, shown
from kedge.data.folder import BROKEN
from kedge.data.trajectories import Trajectories
from kedge.errors import InputError

NAMES: dict[str, tuple[str, ...]] = {
    "observations": ("observations", "observation", "states", "state", "obs"),
    "actions": ("actions", "action", "acts", "act"),
    "rewards": ("rewards", "reward", "rews", "rew"),
    "ends": ("ends", "episode_ends"),
    "terminals": ("terminals", "terminations", "terminated", "dones", "done"),
    "timeouts": ("timeouts", "truncations", "truncated"),
}
"""What each column may be called, most usual first: `ends` are exclusive ends of episodes, `terminals` and `timeouts`
flags of their last steps."""

READER = "which reads this"
"""What the packages of other formats are for."""

OBJECTS = "Python objects, which are not read, for they could run code: save plain arrays of numbers"


@contextmanager
def reading(where: str, what: str) -> Iterator[None]:
    """What a reader stumbles over is said in one line."""
    try:
        yield
    except InputError:
        raise
    except BROKEN as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where} cannot be read as {what} ({said})") from None


def find(arrays: Mapping[str, Any], keys: Mapping[str, str], where: str) -> dict[str, str]:
    """Which array is which column: as `keys` says, else the first of its usual names that is there."""
    for name, key in keys.items():
        if name not in NAMES:
            raise InputError(f"keys: there is no column {name!r}, choose from {', '.join(NAMES)}")
        if key not in arrays:
            raise InputError(f"{where}: no {key!r} for {name}; it holds {_listed(arrays)}")
    named = {name: next((n for n in names if n in arrays), None) for name, names in NAMES.items()}
    return {name: key for name, key in named.items() if key is not None} | dict(keys)


def assemble(
    arrays: Mapping[str, Any],
    where: str,
    provenance: Mapping[str, Any],
    keys: Mapping[str, str],
    finite: bool = True,
    one_stream: bool = False,
    leave: tuple[str, ...] = (),
) -> Trajectories:
    """Trajectories from named arrays.

    Episodes end where `ends` says, else at every terminal and timeout, and at the end of the data. What else has a row
    for each step is kept under its own name, with dots for slashes; where that cannot name a column, or names another
    one, it is left out, and the provenance says so.

    Args:
        arrays: array-likes by name; each that is used is read as a whole.
        where: the source's name for errors.
        provenance: what to note of the source.
        keys: columns that have unusual names.
        finite: whether infinities and nan are refused.
        one_stream: True takes data that says nothing about ends as one episode.
        leave: names that are of no use.
    """
    found = find(arrays, keys, where)
    for name in ("observations", "actions"):
        if name not in found:
            raise InputError(
                f"{where}: no {name}; it holds {_listed(arrays)}, accepted are {', '.join(NAMES[name])}, or say which "
                f'with keys={{"{name}": ...}}'
            )
    read = {name: _read(arrays, found[name], where) for name in ("observations", "actions", "rewards") if name in found}
    for name in ("observations", "actions"):
        if read[name].ndim == 0:
            raise InputError(f"{where}: {name} must be a row of numbers for each step, got a single number")
    if read["actions"].ndim == 1:
        read["actions"] = read["actions"][:, None]
    count = len(read["observations"])
    ends = _ends(arrays, found, count, where, one_stream)
    used = {*found.values(), *leave}
    extra, odd = dict[str, np.ndarray](), list[str]()
    for key, values in arrays.items():
        name = key.replace("/", ".")
        if key in used or not _is_column(values, count):
            continue
        if may_name(name) and name not in extra:
            extra[name] = _read(arrays, key, where)
        else:
            odd.append(key)
    noted = {**provenance, **left_out(odd)}
    return Trajectories.of(**read, ends=ends, provenance=noted, finite=finite, where=where, **extra)


def left_out(names: Sequence[str]) -> dict[str, str]:
    """What the provenance says of arrays that are no columns because of their names."""
    return {"left out": f"{', '.join(names)} (no names that further columns can have)"} if names else {}


def _ends(arrays: Mapping[str, Any], found: Mapping[str, str], count: int, where: str, one_stream: bool) -> np.ndarray:
    if "ends" in found:
        return _read(arrays, found["ends"], where)
    flags = [name for name in ("terminals", "timeouts") if name in found]
    if not flags and not one_stream:
        usual = [name for kind in ("ends", "terminals", "timeouts") for name in NAMES[kind]]
        raise InputError(
            f"{where}: nothing says where episodes end; it holds {_listed(arrays)}, accepted are {', '.join(usual)}; "
            "if it is one long episode, say so with one_stream=True"
        )
    last = np.zeros(count, bool)
    for name in flags:
        values = _read(arrays, found[name], where)
        if values.size != count or values.dtype.kind not in NUMBERS:
            raise InputError(
                f"{where}: {found[name]} must be [N], a flag for each of {count} steps, got {shown(values)}"
            )
        last |= values.reshape(-1).astype(bool)
    last[-1:] = True
    return np.flatnonzero(last) + 1


def _read(arrays: Mapping[str, Any], key: str, where: str) -> np.ndarray:
    if getattr(arrays[key].dtype, "hasobject", False):
        raise InputError(f"{where}: {key} holds {OBJECTS}")
    try:
        return np.asarray(arrays[key][...])
    except ValueError as error:
        raise InputError(f"{where}: {key} cannot be read ({' '.join(str(error).split())})") from None


def _is_column(values: Any, count: int) -> bool:
    # HDF5 knows arrays without a shape, which hold nothing at all.
    shape, dtype = getattr(values, "shape", None) or (), getattr(values, "dtype", None)
    return len(shape) > 0 and shape[0] == count and getattr(dtype, "kind", "O") in NUMBERS


def _listed(arrays: Mapping[str, Any]) -> str:
    names = list(arrays)
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "nothing"
