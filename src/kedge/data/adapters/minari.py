"""Minari's data sets, by path or by name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from kedge.data.adapters.named import READER, left_out, reading
from kedge.data.columns import NUMBERS, may_name
from kedge.data.trajectories import Trajectories
from kedge.errors import InputError
from kedge.extras import optional

NAME = re.compile(r"([\w-]+/)*[\w-]+-v\d+")


def is_minari(path: Path) -> bool:
    """Whether a folder is a Minari data set, or the `data` folder in one."""
    return _data(path) is not None


def home() -> Path:
    """Where Minari keeps its data sets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def by_name(name: str) -> Path | None:
    """The folder of a data set that Minari has on this machine."""
    path = home() / name
    return path if NAME.fullmatch(name) and is_minari(path) else None


def near(name: str) -> list[str]:
    """Names like it that Minari has on this machine."""
    there = [p.parent.parent.relative_to(home()).as_posix() for p in home().glob("**/data/metadata.json")]
    return get_close_matches(name, there, 3, 0.4)


def read(path: Path, finite: bool) -> Trajectories:
    """Trajectories from a Minari data set on this machine; nothing is downloaded.

    An episode of T actions has T + 1 observations. The last one, after which nothing was done, is left out, so that
    every row has an observation and what was done next. If observations are a dictionary with an entry `observation`
    (as in PointMaze and everything with goals), that entry is the observation and the others become columns of their
    own, such as `desired_goal`, where they hold numbers; one whose name cannot name a column is left out, and the
    provenance says so. Any other dictionary is laid end to end, in the order of its sorted names. Discrete actions
    become one number.
    """
    minari = optional("minari", "minari", READER)
    optional("h5py", "minari", READER)
    where = str(path)
    odd: set[str] = set()
    with reading(where, "a Minari data set"):
        found = minari.MinariDataset(_data(path))
        episodes = [_episode(one, where, odd) for one in found.iterate_episodes()]
        if not episodes:
            raise InputError(f"{where}: empty, there is not a single episode")
        columns = {name: np.concatenate([one[name] for one in episodes]) for name in episodes[0]}
        noted = {"from": found.id, "format": "minari", "minari": found.storage.metadata.get("minari_version")}
    ends = np.cumsum([len(one["observations"]) for one in episodes])
    noted |= left_out(sorted(odd))
    return Trajectories.of(**columns, ends=ends, provenance=noted, finite=finite, where=where)


def _data(path: Path) -> Path | None:
    return next((p for p in (path / "data", path) if (p / "metadata.json").is_file()), None)


def _episode(one: Any, where: str, odd: set[str]) -> dict[str, np.ndarray]:
    """An episode's columns; `odd` takes the names that no column can have."""
    count = len(one.rewards)
    observations, rest = _observations(one.observations, f"{where}, episode {one.id}")
    actions = _flat(one.actions, f"{where}, episode {one.id}: actions")
    extra = {name: values for name, values in rest.items() if values.dtype.kind in NUMBERS}
    odd |= {name for name in extra if not may_name(name)}
    columns = {"observations": observations} | {name: values for name, values in extra.items() if name not in odd}
    if len(actions) != count:
        raise InputError(f"{where}, episode {one.id}: {count} rewards, but {len(actions)} rows of actions")
    for name, values in columns.items():
        if len(values) not in (count, count + 1):
            raise InputError(f"{where}, episode {one.id}: {count} rewards, but {len(values)} rows of {name}")
    columns = {name: values[:count] for name, values in columns.items()}
    return columns | {"actions": actions, "rewards": np.asarray(one.rewards)}


def _observations(found: Any, where: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    if isinstance(found, Mapping) and "observation" in found:
        rest = {name: value for name, value in found.items() if name != "observation"}
        return _flat(found["observation"], f"{where}: observation"), _leaves(rest, where)
    return _flat(found, f"{where}: observations"), {}


def _flat(found: Any, where: str) -> np.ndarray:
    """`[T, D]`: a dictionary end to end."""
    parts = list(_leaves(found, where).values()) if isinstance(found, Mapping) else [np.asarray(found)]
    for part in parts:
        if part.ndim not in (1, 2) or part.dtype.kind not in NUMBERS:
            raise InputError(f"{where} must be rows of numbers, got {part.dtype} {list(part.shape)}")
    return np.concatenate([part[:, None] if part.ndim == 1 else part for part in parts], 1)


def _leaves(found: Mapping[str, Any], where: str, at: str = "") -> dict[str, np.ndarray]:
    """The arrays of a dictionary of dictionaries, by dotted names in sorted order."""
    leaves: dict[str, np.ndarray] = {}
    for name in sorted(found):
        value = found[name]
        if isinstance(value, Mapping):
            leaves |= _leaves(value, where, f"{at}{name}.")
        else:
            leaves[f"{at}{name}".replace(" ", "_")] = np.asarray(value)
    return leaves
