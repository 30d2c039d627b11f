"""The store: what it takes, what it refuses, and that it comes back as it was."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kedge.data
from data.logs import logs_of
from kedge.data import Trajectories
from kedge.data.folder import Writer
from kedge.errors import InputError


def same(a: Trajectories, b: Trajectories) -> None:
    assert list(a.columns) == list(b.columns)
    for name, values in a.columns.items():
        assert values.dtype == b.columns[name].dtype
        np.testing.assert_array_equal(values, b.columns[name])
    np.testing.assert_array_equal(a.ends, b.ends)
    assert a.provenance == b.provenance
    assert a.digest == b.digest


def test_what_is_saved_comes_back_and_stays_on_disk(tmp_path: Path) -> None:
    logs = logs_of([3, 5, 1], provenance={"seed": 3, "made": {"by": "hand"}}, goal=np.arange(18).reshape(9, 2))
    opened = kedge.data.open(logs.save(tmp_path / "deep" / "logs"))
    same(logs, opened)
    assert isinstance(opened.observations, np.memmap)
    assert opened.extra["goal"].dtype == np.int64
    assert opened.dimensions == (4, 2)
    assert len(opened) == 9


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_episodes_tile_the_steps(lengths: list[int]) -> None:
    logs = logs_of(lengths)
    assert logs.lengths.tolist() == lengths
    steps = [logs.episode(e)["observations"][:, 0] for e in range(len(lengths))]
    np.testing.assert_array_equal(np.concatenate(steps), np.arange(len(logs)))
    np.testing.assert_array_equal(steps[-1], logs.episode(-1)["observations"][:, 0])
    with pytest.raises(IndexError):
        logs.episode(len(lengths))


def test_written_episode_by_episode_it_is_the_same(tmp_path: Path) -> None:
    logs = logs_of([300, 7, 1200], provenance={"a": 1}, mood=np.arange(1507) % 3 == 0)
    written = Trajectories.write(tmp_path / "w", (logs.episode(e) for e in range(3)), {"a": 1})
    same(logs, written)


def test_only_one_episode_is_held_while_writing(tmp_path: Path) -> None:
    """40 episodes of 1 MB pass through; what is held never grows by more than a few of them."""
    import tracemalloc

    def episodes() -> Iterator[dict[str, np.ndarray]]:
        for _ in range(40):
            yield {"observations": np.zeros((1 << 16, 4), np.float32), "actions": np.zeros((1 << 16, 1), np.float32)}

    tracemalloc.start()
    logs = Trajectories.write(tmp_path / "w", episodes())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(logs) == 40 << 16
    assert peak < 8 << 20


def test_the_digest_is_of_the_content() -> None:
    base = logs_of([4, 6])
    seen = {base.digest}
    assert logs_of([4, 6], provenance={"else": 1}).digest == base.digest
    assert Trajectories(dict(reversed(list(base.columns.items()))), base.ends).digest == base.digest
    actions = base.actions.copy()
    actions[9, 1] += 1e-6
    for changed in (logs_of([5, 5]), logs_of([4, 6], actions=actions), logs_of([4, 6], more=np.zeros(10))):
        assert changed.digest not in seen
        seen.add(changed.digest)


def test_digest_does_not_depend_on_how_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = logs_of([50, 30]).digest
    monkeypatch.setattr(Trajectories, "chunks", partialmethod(Trajectories.chunks, 7))
    assert logs_of([50, 30]).digest == whole
    assert kedge.data.open(logs_of([50, 30]).save(tmp_path / "x")).digest == whole


def test_tensors_lists_and_other_types_are_taken() -> None:
    logs = Trajectories.of(torch.ones(3, 2, dtype=torch.float64), [[1], [0], [1]], [3], rewards=np.ones((3, 1), int))
    assert logs.observations.dtype == logs.actions.dtype == logs.rewards.dtype == np.float32
    assert logs.rewards.shape == (3,)
    assert logs.ends.dtype == np.int64
    half = torch.tensor([[1.5], [2.0]], dtype=torch.bfloat16)
    logs = Trajectories.of(half, half, torch.tensor([2]), goal=half)
    assert logs.observations.tolist() == [[1.5], [2.0]]
    assert logs.extra["goal"].dtype == np.float32


def test_rewards_are_missed_where_they_are_asked_for() -> None:
    logs = Trajectories.of(np.zeros((2, 1)), np.zeros((2, 1)), [2])
    assert not logs.rewarded
    with pytest.raises(InputError, match=r"^rewards are needed, but the data holds only observations, actions$"):
        _ = logs.rewards


O, A = np.zeros((6, 2), np.float32), np.zeros((6, 1), np.float32)  # noqa: E741
HOLE = O.copy()
HOLE[4, 1], HOLE[5, 0] = np.nan, np.inf

BAD: list[tuple[dict[str, Any], str]] = [
    (
        {"observations": O[:, 0]},
        r"trajectories: observations must be \[N, S\], a row of numbers for each step, got \[6\]",
    ),
    ({"actions": A[:5]}, r"trajectories: actions has 5 steps, but observations 6"),
    ({"rewards": np.zeros((6, 2))}, r"trajectories: rewards must be \[N\], one number for each step, got \[6, 2\]"),
    (
        {"observations": HOLE},
        r"trajectories: observations holds 2 numbers that are infinite or nan, the first at step 4, dimension 1",
    ),
    ({"goal": HOLE}, r"trajectories: goal holds 2 numbers .* the first at step 4, dimension 1"),
    ({"observations": np.full((6, 2), 1e39)}, r"trajectories: observations holds 12 numbers that are infinite"),
    ({"actions": np.array([["a"]] * 6)}, r"trajectories: actions holds <U1, no numbers"),
    ({"actions": [[1], [1, 2]]}, r"trajectories: actions is ragged: its steps differ in length"),
    ({"actions": [{1: 2}] * 6}, r"trajectories: actions holds object, no numbers"),
    ({"ends": [3, 3, 6]}, r"trajectories: ends must ascend from 1 on, but episode 1 ends at 3, after 3"),
    ({"ends": [4, 2, 6]}, r"trajectories: ends must ascend from 1 on, but episode 1 ends at 2, after 4"),
    ({"ends": [0, 6]}, r"trajectories: ends must ascend from 1 on, but episode 0 ends at 0, first"),
    ({"ends": [3]}, r"trajectories: the last episode ends at 3, but there are 6 steps"),
    ({"ends": [[6], [2, 4]]}, r"trajectories: ends is ragged"),
    ({"ends": []}, r"trajectories: ends must be \[E\] whole numbers, got float64 \[0\]"),
    ({"ends": [6.0]}, r"trajectories: ends must be \[E\] whole numbers, got float64 \[1\]"),
    ({"observations": O[:0], "actions": A[:0]}, r"trajectories: empty, there is not a single step"),
    ({"provenance": {"x": {1, 2}}}, r"trajectories: provenance is for what JSON can hold .*"),
    ({"../x": O}, r"trajectories: '../x' cannot name a column: use letters, digits, underscores and dots"),
    ({"meta": O}, r"trajectories: a column cannot be called 'meta': .*"),
    ({"flag": 1}, r"trajectories: flag must lead with the steps \[N, ...\], got a single number"),
]


@pytest.mark.parametrize(("change", "said"), BAD, ids=[said[14:40] for _, said in BAD])
def test_bad_data_is_refused_in_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"^{said}") as caught:
        Trajectories.of(**({"observations": O, "actions": A, "ends": [2, 6]} | change))
    assert "\n" not in str(caught.value)


def test_numbers_that_are_not_finite_can_be_looked_at_but_not_saved(tmp_path: Path) -> None:
    logs = Trajectories.of(HOLE, A, [6], finite=False)
    assert np.isnan(logs.observations[4, 1])
    with pytest.raises(InputError, match=r"not written: observations holds 2 numbers"):
        logs.save(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_another_set_is_not_overwritten(tmp_path: Path) -> None:
    one, other = logs_of([4]), logs_of([5])
    one.save(tmp_path / "x")
    one.save(tmp_path / "x")
    with pytest.raises(InputError, match=r"x exists and holds other trajectories: replace=True overwrites them$"):
        other.save(tmp_path / "x")
    same(kedge.data.open(tmp_path / "x"), one)
    other.save(tmp_path / "x", replace=True)
    same(kedge.data.open(tmp_path / "x"), other)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis").touch()
    with pytest.raises(InputError, match=r"precious exists and is something else$"):
        other.save(tmp_path / "precious", replace=True)


def test_of_two_that_write_the_same_the_first_stands(tmp_path: Path) -> None:
    def meanwhile(other: Trajectories) -> Iterator[dict[str, np.ndarray]]:
        yield logs.episode(0)
        other.save(tmp_path / "x")

    logs = logs_of([4])
    same(Trajectories.write(tmp_path / "x", meanwhile(logs)), logs)
    with pytest.raises(InputError, match=r"y was written by another process meanwhile, with other data$"):
        Trajectories.write(tmp_path / "y", (logs_of([5]).save(tmp_path / "y") and logs.episode(0) for _ in range(1)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "y"]


def test_an_error_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    def episodes() -> Iterator[dict[str, np.ndarray]]:
        yield {"observations": O, "actions": A}
        yield {"observations": O, "actions": np.zeros((6, 2))}

    with pytest.raises(
        InputError, match=r"episode 1: actions has rows of \(2,\) float32, before it were \(1,\) float32"
    ):
        Trajectories.write(tmp_path / "x", episodes())
    with pytest.raises(InputError, match=r"episode 0: no actions; it holds observations$"):
        Trajectories.write(tmp_path / "x", [{"observations": O}])
    rewarded = {"observations": O, "actions": A, "rewards": A}
    with pytest.raises(InputError, match=r"episode 1: rewards is there in some episodes and not in others$"):
        Trajectories.write(tmp_path / "x", [{"observations": O, "actions": A}, rewarded])
    for word in ("ends", "where", "finite", "provenance", "meta", "cls"):
        with pytest.raises(InputError, match=rf"episode 0: a column cannot be called '{word}': the word has another"):
            Trajectories.write(tmp_path / "x", [{"observations": O, "actions": A, word: A}])
    with pytest.raises(InputError, match=r"episode 0: observations must be \[N, S\], .*, got \[\]$"):
        Trajectories.write(tmp_path / "x", [{"observations": 3.0, "actions": A}])
    with pytest.raises(InputError, match=r"x: empty"):
        Trajectories.write(tmp_path / "x", [])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        InputError, match=r"x could not be written \(No space left on device\); what was begun is removed$"
    ):
        logs_of([4]).save(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


ENDLESS = """
import sys, numpy as np
from kedge.data import Trajectories
def episodes():
    while True:
        yield {"observations": np.zeros((99, 2)), "actions": np.zeros((99, 1))}
Trajectories.write(sys.argv[1], episodes())
"""


def test_what_was_left_goes_whatever_the_folder_is_called(tmp_path: Path) -> None:
    left = tmp_path / f".writing-x[1]-{dead()}-00000000"
    left.mkdir()
    logs_of([4]).save(tmp_path / "x[1]")
    assert not left.exists()


def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_is_not_opened_and_goes(tmp_path: Path) -> None:
    target = tmp_path / "x"
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(target)])
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".writing-*/actions.npy")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".writing-x-")
    for folder in (target, left):
        with pytest.raises(InputError):
            kedge.data.open(folder)
    logs_of([4]).save(target)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_an_altered_folder_is_refused(tmp_path: Path) -> None:
    folder = logs_of([40]).save(tmp_path / "x")
    kept = (folder / "actions.npy").read_bytes()
    (folder / "actions.npy").write_bytes(kept[:-8])
    with pytest.raises(InputError, match=r"actions.npy cannot be read"):
        kedge.data.open(folder)
    np.save(folder / "actions.npy", np.zeros((40, 3), np.float32))
    with pytest.raises(InputError, match=r"actions.npy was altered: it is \('<f4', \(40, 3\)\), written was"):
        kedge.data.open(folder)
    np.save(folder / "actions.npy", np.array([{}] * 40, object), allow_pickle=True)
    with pytest.raises(InputError, match=r"actions.npy cannot be read"):
        kedge.data.open(folder)
    (folder / "actions.npy").unlink()
    with pytest.raises(InputError, match=r"actions.npy is missing: the folder was altered$"):
        kedge.data.open(folder)
    (folder / "meta.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(InputError, match=re.escape("meta.json is not of the format 'kedge-trajectories-1'")):
        kedge.data.open(folder)
    (folder / "meta.json").write_text("{")
    with pytest.raises(InputError, match=r"meta.json cannot be read"):
        kedge.data.open(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"columns": None}, r"it does not say the columns"),
        ({"columns": {}}, r"there are no actions among the columns"),
        ({"digest": 3}, r"it does not say the digest"),
        ({"provenance": []}, r"it does not say the provenance"),
    ],
)
def test_a_folder_that_does_not_say_what_it_is_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = logs_of([40]).save(tmp_path / "x")
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | change))
    with pytest.raises(InputError, match=rf"meta.json was altered: {said}$"):
        kedge.data.open(folder)


def test_a_column_that_is_not_described_is_refused(tmp_path: Path) -> None:
    folder = logs_of([40]).save(tmp_path / "x")
    meta = json.loads((folder / "meta.json").read_text())
    meta["columns"]["actions"] = 3
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match=r"actions.npy was altered: .*, written was 3$"):
        kedge.data.open(folder)


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ([30], r"the last episode ends at 30, but there are 40 steps"),
        ([20, 10, 40], r"ends must ascend from 1 on, but episode 1 ends at 10, after 20"),
        ([20.0, 40.0], r"ends must be \[E\] whole numbers, got float64 \[2\]"),
    ],
)
def test_altered_ends_are_refused(ends: list[Any], said: str, tmp_path: Path) -> None:
    folder = logs_of([40]).save(tmp_path / "x")
    np.save(folder / "ends.npy", np.array(ends))
    with pytest.raises(InputError, match=rf"ends.npy: {said}$"):
        kedge.data.open(folder)


@pytest.mark.parametrize("odd", [np.float32(1.0), np.zeros(42, "c8"), np.zeros(42, "M8[s]")])
def test_columns_that_are_no_rows_of_numbers_are_refused_though_the_folder_says_so_too(
    odd: Any, tmp_path: Path
) -> None:
    folder = logs_of([20, 22]).save(tmp_path / "set")
    np.save(folder / "actions.npy", odd)
    told = json.loads((folder / "meta.json").read_text())
    told["columns"]["actions"] = [np.asarray(odd).dtype.str, list(np.shape(odd))]
    (folder / "meta.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"actions.npy was altered: it is .*, no rows of numbers$"):
        Trajectories.open(folder)


def test_what_is_left_open_on_a_full_disk_does_not_hide_what_was_said(tmp_path: Path) -> None:
    """Closing a file writes what has found no room before, and fails once more."""
    writer = Writer(tmp_path / "set", {})
    writer.__enter__()
    writer.append(logs_of([20]).columns, "here")
    for one in writer.columns.values():
        one.file.close()
        one.file = open("/dev/full", "wb")  # noqa: SIM115
        one.file.write(b"some")
    writer.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []
