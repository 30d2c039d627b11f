"""LeRobot's data sets, of versions 2 and 3 of its format."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from kedge.data.adapters.named import READER, assemble, reading
from kedge.data.columns import NUMBERS
from kedge.data.trajectories import Trajectories
from kedge.errors import InputError
from kedge.extras import optional

INFO = Path("meta", "info.json")
STATE, ACTION, REWARD = "observation.state", "action", "next.reward"
COUNTED = ("episode_index", "frame_index")
"""Which episode a row is of, and which step of it: in both versions every row says so itself."""
PICTURES = ("image", "video")
VERSIONS = ("v2.", "v3.")


def is_lerobot(path: Path) -> bool:
    """Whether a folder is a LeRobot data set."""
    return (path / INFO).is_file()


def home() -> Path:
    """Where LeRobot keeps its data sets."""
    cache = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_LEROBOT_HOME") or Path(cache, "lerobot"))


def by_name(name: str) -> Path | None:
    """The folder of a data set, `owner/name`, that LeRobot has on this machine."""
    path = home() / name
    return path if name.count("/") == 1 and ".." not in name and is_lerobot(path) else None


def read(path: Path, keys: Mapping[str, str], finite: bool) -> Trajectories:
    """Trajectories from a LeRobot data set on this machine; nothing is downloaded.

    The versions differ in how rows are dealt out to files: an episode a file in 2.0 and 2.1, many in 3.0. Each row says
    of which episode and which step it is, so the order of files is of no account. `observation.state` is the
    observation; a set without one has all other `observation.` columns end to end, in the order of their names.
    `action` is what was then done and `next.reward`, where there is one, what that earned. Images and videos are left
    out, and so is text; the provenance says so. All other numbers are columns, `next.done` and `task_index` among them.

    An episode ends where the next one begins: `next.done` marks that a task was done, and a recording may go on.
    """
    where = str(path)
    parquet = optional("pyarrow.parquet", "lerobot", READER)
    info = _info(path)
    features: Mapping[str, Any] = info["features"]
    kept = [name for name, of in features.items() if _numeric(of)]
    with reading(where, "a LeRobot data set"):
        arrays = _rows(path, parquet, [*COUNTED, *(name for name in kept if name not in COUNTED)], where)
    arrays, ends = _in_order(arrays, info, where)
    found = _named(arrays, keys, features, where)
    noted = {"from": path.name, "format": "lerobot", "version": info["codebase_version"], **_notes(info)}
    return assemble(
        {**arrays, "ends": ends}, where, noted, found, finite, leave=("episode_index", "frame_index", "index")
    )


def _info(path: Path) -> dict[str, Any]:
    with reading(str(path / INFO), "JSON"):
        info = json.loads((path / INFO).read_text(encoding="utf-8"))
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
        raise InputError(f"{path / INFO}: no features; is this a LeRobot data set?")
    version = str(info.setdefault("codebase_version", "none"))
    if not version.startswith(VERSIONS):
        raise InputError(f"{path}: version {version} of LeRobot's format; those that can be read are 2.0, 2.1 and 3.0")
    return info


def _numeric(feature: Any) -> bool:
    """Whether a feature is a row of numbers."""
    name = feature.get("dtype") if isinstance(feature, dict) else None
    try:
        return name not in PICTURES and np.dtype(name).kind in NUMBERS
    except TypeError:
        return False


def _notes(info: Mapping[str, Any]) -> dict[str, Any]:
    """What the provenance says beyond the name."""
    noted = {name: info[name] for name in ("fps", "robot_type") if info.get(name)}
    pictures = sorted(name for name, of in info["features"].items() if isinstance(of, dict) and of["dtype"] in PICTURES)
    said = f"{', '.join(pictures)} (kedge learns from rows of numbers)"
    return noted | ({"images left out": said} if pictures else {})


def _rows(path: Path, parquet: ModuleType, names: list[str], where: str) -> dict[str, np.ndarray]:
    """All rows of all files, column by column."""
    files = sorted(path.glob("data/*/*.parquet"))
    if not files:
        raise InputError(f"{where}: there are no data/*/*.parquet; were the data downloaded, not meta alone?")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for file in files:
        if missing := [name for name in names if name not in parquet.read_schema(file).names]:
            raise InputError(f"{file}: no column {missing[0]!r}, which {INFO.as_posix()} speaks of")
        table = parquet.read_table(file, columns=names)
        for name in names:
            parts[name].append(_array(table.column(name).combine_chunks(), f"{file}: {name}"))
    widths = {name: {part.shape[1:] for part in found} for name, found in parts.items()}
    if odd := [name for name, shapes in widths.items() if len(shapes) > 1]:
        raise InputError(f"{where}: {odd[0]} differs in its shape from file to file")
    return {name: np.concatenate(found) for name, found in parts.items()}


def _array(column: Any, where: str) -> np.ndarray:
    """A column of numbers, or of lists of them of one length, as an array `[rows, ...]`."""
    shape = [len(column)]
    column = getattr(column, "storage", column)  # what libraries with types of their own have put there
    while hasattr(column, "flatten") and hasattr(column, "value_lengths"):
        lengths = column.value_lengths().drop_null().unique().to_pylist()
        if column.null_count or len(lengths) > 1:
            raise InputError(f"{where} is ragged: its rows differ in length")
        shape.append(int(lengths[0]) if lengths else 0)
        column = column.flatten()
    if column.null_count:
        raise InputError(f"{where} lacks {column.null_count} of its values")
    found = column.to_numpy(zero_copy_only=False).reshape(shape)
    return found[:, 0] if found.shape[1:] == (1,) else found


def _in_order(
    arrays: dict[str, np.ndarray], info: Mapping[str, Any], where: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The rows episode by episode and step by step, and the episodes' ends. Every step must be there, once."""
    episode, frame = (arrays[name] for name in COUNTED)
    order = np.lexsort((frame, episode))
    arrays = {name: values[order] for name, values in arrays.items()}
    episode, frame = (arrays[name] for name in COUNTED)
    ends = np.append(np.flatnonzero(np.diff(episode)) + 1, len(episode))
    starts = np.concatenate([[0], ends[:-1]])
    counted = np.arange(len(frame)) - np.repeat(starts, ends - starts)
    if (odd := np.flatnonzero(frame != counted)).size:
        at = odd[0]
        raise InputError(f"{where}: episode {episode[at]} has no step {counted[at]}, or one of its steps twice")
    for name, count in (("total_frames", len(frame)), ("total_episodes", len(ends))):
        if info.get(name, count) != count:
            raise InputError(
                f"{where}: {INFO.as_posix()} says {name} {info[name]}, but the files hold {count}; download what is "
                "missing, or correct it there"
            )
    return arrays, ends


def _named(
    arrays: dict[str, np.ndarray], keys: Mapping[str, str], features: Mapping[str, Any], where: str
) -> dict[str, str]:
    """Which column is which; the observation is put together where there is no state."""
    if odd := sorted(keys.keys() - {"observations", "actions", "rewards"}):
        raise InputError(f"keys: of a LeRobot data set one can say observations, actions and rewards, not {odd[0]!r}")
    found = {"actions": ACTION} | ({"rewards": REWARD} if REWARD in arrays else {}) | dict(keys)
    if "observations" not in found:
        found["observations"] = STATE if STATE in arrays else "observation"
    if found["observations"] == "observation" and "observation" not in arrays:
        arrays["observation"] = _together(arrays, features, where)
    name = found["observations"]
    if name in arrays and arrays[name].ndim == 1:
        arrays[name] = arrays[name][:, None]
    return found


def _together(arrays: dict[str, np.ndarray], features: Mapping[str, Any], where: str) -> np.ndarray:
    """All observations end to end, in the order of their names; they are no columns of their own any more."""
    names = sorted(name for name in arrays if name.startswith("observation.") and arrays[name].ndim <= 2)
    if not names:
        raise InputError(
            f"{where}: no {STATE}, and nothing else that was observed is a row of numbers; it holds "
            f"{', '.join(features)}, and images are left out"
        )
    return np.concatenate([arrays.pop(name).reshape(len(arrays[COUNTED[0]]), -1) for name in names], 1)
