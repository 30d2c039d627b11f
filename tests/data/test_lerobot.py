"""LeRobot's data sets of both layouts, written here as its own code writes them; and what is wrong with one."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kedge.data
from kedge.data import Trajectories
from kedge.errors import InputError

LENGTHS = (4, 1, 7)
N = sum(LENGTHS)
RNG = np.random.default_rng(0)
STATE, ACTION, FORCE = (RNG.normal(size=(N, width)).astype(np.float32) for width in (3, 2, 6))
REWARD = RNG.normal(size=N).astype(np.float32)
EPISODE = np.repeat(np.arange(3), LENGTHS)
FRAME = np.concatenate([np.arange(length) for length in LENGTHS])

TOP = "observation.images.top"
FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]},
    "observation.force": {"dtype": "float32", "shape": [2, 3], "names": None},
    "action": {"dtype": "float32", "shape": [2], "names": None},
    "next.reward": {"dtype": "float32", "shape": [1], "names": None},
    "next.done": {"dtype": "bool", "shape": [1], "names": None},
    TOP: {"dtype": "video", "shape": [96, 96, 3], "names": ["height", "width", "channel"]},
    "words": {"dtype": "string", "shape": [1], "names": None},
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}


def rows() -> dict[str, Any]:
    """The columns as they lie in the files: lists of one length, plain numbers, words."""
    return {
        "observation.state": pa.array(list(STATE), pa.list_(pa.float32(), 3)),
        "observation.force": pa.array(FORCE.reshape(N, 2, 3).tolist(), pa.list_(pa.list_(pa.float32()))),
        "action": pa.array(list(ACTION), pa.list_(pa.float32())),
        "next.reward": pa.array(REWARD),
        "next.done": pa.array(np.isin(np.arange(N), np.cumsum(LENGTHS) - 1)),
        "words": pa.array(["push"] * N),
        "timestamp": pa.array((FRAME / 10).astype(np.float32)),
        "frame_index": pa.array(FRAME),
        "episode_index": pa.array(EPISODE),
        "index": pa.array(np.arange(N)),
        "task_index": pa.array(np.zeros(N, np.int64)),
    }


def written(path: Path, version: str, columns: dict[str, Any] | None = None, **info: Any) -> Path:
    """A data set: an episode a file up to version 2.1, from 3.0 on as many in a file as there are."""
    table = pa.table(rows() if columns is None else columns)
    bounds = [(0, 5), (5, N)] if version == "v3.0" else [(0, 4), (4, 5), (5, N)]
    chunk = path / "data" / "chunk-000"
    chunk.mkdir(parents=True)
    for number, (first, last) in enumerate(bounds):
        name = f"file-{number:03d}" if version == "v3.0" else f"episode_{number:06d}"
        pq.write_table(table.slice(first, last - first), chunk / f"{name}.parquet")
    said = {
        "codebase_version": version, "robot_type": "so100", "fps": 10, "total_episodes": 3, "total_frames": N,
        "features": FEATURES,
    }  # fmt: skip
    (path / "meta").mkdir()
    (path / "meta" / "info.json").write_text(json.dumps(said | info))
    return path


def holds(logs: Trajectories) -> None:
    np.testing.assert_array_equal(logs.observations, STATE)
    np.testing.assert_array_equal(logs.actions, ACTION)
    np.testing.assert_array_equal(logs.rewards, REWARD)
    assert logs.lengths.tolist() == list(LENGTHS)


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_both_layouts_hold_the_same(tmp_path: Path, version: str) -> None:
    logs = kedge.data.open(written(tmp_path / "push", version))
    holds(logs)
    assert set(logs.extra) == {"observation.force", "next.done", "timestamp", "task_index"}
    np.testing.assert_array_equal(logs.extra["observation.force"], FORCE.reshape(N, 2, 3))
    np.testing.assert_array_equal(np.flatnonzero(logs.extra["next.done"]) + 1, logs.ends)
    said = f"{TOP} (kedge learns from rows of numbers)"
    assert logs.provenance == {
        "from": "push", "format": "lerobot", "version": version, "fps": 10, "robot_type": "so100",
        "images left out": said,
    }  # fmt: skip


def test_rows_say_themselves_where_they_belong(tmp_path: Path) -> None:
    """Files and rows may lie in any order, as after two sets were put together."""
    order = RNG.permutation(N)
    holds(kedge.data.open(written(tmp_path / "push", "v3.0", pa.table(rows()).take(order).to_pydict())))


def test_a_done_does_not_end_a_recording_that_goes_on(tmp_path: Path) -> None:
    done = rows() | {"next.done": pa.array(np.ones(N, bool))}
    holds(kedge.data.open(written(tmp_path / "push", "v2.1", done)))


def test_other_columns_may_be_the_observation(tmp_path: Path) -> None:
    path = written(tmp_path / "push", "v2.1")
    logs = kedge.data.open(path, keys={"observations": "timestamp", "rewards": "task_index"})
    np.testing.assert_array_equal(logs.observations[:, 0], rows()["timestamp"].to_numpy())
    assert not logs.rewards.any()
    with pytest.raises(InputError, match="not 'ends'"):
        kedge.data.open(path, keys={"ends": "index"})
    with pytest.raises(InputError, match="no 'qpos' for observations; it holds"):
        kedge.data.open(path, keys={"observations": "qpos"})


def test_without_a_state_what_was_observed_is_laid_end_to_end(tmp_path: Path) -> None:
    columns = {name: value for name, value in rows().items() if name not in ("observation.state", "next.reward")}
    columns |= {"observation.effort": columns.pop("task_index"), "observation.angle": pa.array(list(STATE))}
    features = {name: FEATURES.get(name, {"dtype": "float32", "shape": [3]}) for name in columns}
    del features["observation.force"]
    logs = kedge.data.open(written(tmp_path / "push", "v3.0", columns, features=features))
    np.testing.assert_array_equal(logs.observations, np.concatenate([STATE, np.zeros((N, 1))], 1))
    assert not logs.rewarded
    assert "observation.angle" not in logs.extra


def test_by_name_where_lerobot_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    written(tmp_path / "me" / "push", "v3.0")
    holds(kedge.data.open("me/push"))
    with pytest.raises(InputError, match="no such file"):
        kedge.data.open("me/pull")


# --- what is wrong


def without_pyarrow(name: str) -> Any:
    if name.startswith("pyarrow"):
        raise ModuleNotFoundError(name)
    return importlib.__import__(name)


def fewer(path: Path) -> Path:
    written(path, "v2.1")
    (path / "data" / "chunk-000" / "episode_000002.parquet").unlink()
    return path


def without_data(path: Path) -> Path:
    fewer(path)
    for file in (path / "data" / "chunk-000").iterdir():
        file.unlink()
    return path


def damaged(path: Path) -> Path:
    written(path, "v2.1")
    (path / "data" / "chunk-000" / "episode_000001.parquet").write_bytes(b"PAR1 and no more")
    return path


def info(text: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        written(path, "v3.0")
        (path / "meta" / "info.json").write_text(text)
        return path

    return write


def with_columns(**columns: Any) -> Callable[[Path], Path]:
    return lambda path: written(path, "v2.1", rows() | {name.replace("_", ".", 1): v for name, v in columns.items()})


GAP = np.where(np.arange(N) == N - 1, 9, FRAME)
HOLE = [None if i == 2 else float(r) for i, r in enumerate(REWARD)]
WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "files are missing": (fewer, r"total_frames 12, but the files hold 5; download what is missing"),
    "only meta was downloaded": (without_data, r"there are no data/\*/\*.parquet"),
    "a file is damaged": (damaged, r"cannot be read as a LeRobot data set \(.*"),
    "a step is missing": (
        lambda p: written(p, "v3.0", rows() | {"frame_index": pa.array(GAP)}), r"episode 2 has no step 6",
    ),
    "a value is missing": (with_columns(next_reward=pa.array(HOLE, pa.float32())), r"next.reward lacks 1 of its val"),
    "a row is short": (
        lambda p: written(p, "v2.1", rows() | {"action": pa.array([[1.0, 2.0]] * (N - 1) + [[1.0]])}),
        r"action is ragged",
    ),
    "a column is missing": (
        lambda p: written(p, "v2.1", {k: v for k, v in rows().items() if k != "next.reward"}),
        r"no column 'next.reward', which meta/info.json speaks of",
    ),
    "no state, only images": (
        lambda p: written(p, "v2.1", features={k: v for k, v in FEATURES.items() if "observation." not in k}),
        r"no observation.state, and nothing else that was observed is a row of numbers",
    ),
    "no action": (
        lambda p: written(p, "v2.1", features={k: v for k, v in FEATURES.items() if k != "action"}),
        r"no 'action' for actions; it holds",
    ),
    "an older version": (lambda p: written(p, "v1.6"), r"version v1.6 of LeRobot's format; those that can be read are"),
    "info is no JSON": (info("{"), r"info.json cannot be read as JSON"),
    "info says nothing": (info("{}"), r"info.json: no features"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(WRONG))
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, case: str) -> None:
    write, said = WRONG[case]
    with pytest.raises(InputError, match=said) as caught:
        kedge.data.open(write(tmp_path / "push"))
    assert "\n" not in str(caught.value)


def test_without_pyarrow_the_command_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "push", "v3.0")
    monkeypatch.setattr("kedge.extras.importlib.import_module", without_pyarrow)
    with pytest.raises(InputError, match=r"pip install 'kedge\[lerobot\]'"):
        kedge.data.open(path)
