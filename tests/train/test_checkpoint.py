"""The one format: what comes back, what is noticed, what survives a process that dies while it writes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kedge.train import CheckpointError, Checkpoints, CheckpointWarning, checkpoint, load_tree, save_tree
from kedge.train.checkpoint import join, load_weights, save_weights, split

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
tensors = st.builds(
    lambda shape, dtype, seed: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 9).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
    st.integers(0, 99),
)
trees = st.recursive(
    scalars | tensors,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/.", max_size=3), inner, max_size=3),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(trees)
def test_a_tree_comes_back_as_it_was(tree: Any) -> None:
    words, found = split(tree)
    assert same(join(json.loads(json.dumps(words)), found), tree)


def test_tensors_of_the_same_path_are_kept_apart() -> None:
    tree = {"a/b": torch.zeros(2), "a": {"b": torch.ones(3)}}
    words, found = split(tree)
    assert same(join(words, found), tree)


def test_tied_sliced_and_transposed_tensors_are_saved(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tree = {"whole": whole, "tied": whole, "view": whole[1:], "turned": whole.T, "empty": torch.empty(0, 2)}
    save_tree(tmp_path / "c", tree)
    assert same(load_tree(tmp_path / "c"), tree)
    save_weights(tmp_path / "w.safetensors", tree, {"step": "3"})
    weights = load_weights(tmp_path / "w.safetensors")
    assert same({name: weights[name] for name in tree}, tree)


def test_what_json_cannot_hold_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^cannot save a/0: it is a set, no tensor and no JSON$"):
        save_tree(tmp_path / "c", {"a": [{1}]})
    with pytest.raises(CheckpointError, match=r"^cannot save a: the key 1 is no name$"):
        save_tree(tmp_path / "c", {"a": {1: 2}})
    assert list(tmp_path.iterdir()) == []


def breakages() -> dict[str, Any]:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(bytes(data))

    def edit(folder: Path) -> None:
        state = folder / "state.json"
        state.write_text(state.read_text().replace('"step": 2', '"step": 7'))

    return {
        "tensors cut short": (lambda f: os.truncate(f / "tensors.safetensors", 90), "has 90 bytes instead of"),
        "tensors altered": (lambda f: flip(f / "tensors.safetensors"), r"was altered \(its checksum"),
        "tensors gone": (lambda f: (f / "tensors.safetensors").unlink(), "cannot be read .FileNotFoundError"),
        "state cut short": (lambda f: os.truncate(f / "state.json", 40), "cannot be read .JSONDecodeError"),
        "state empty": (lambda f: os.truncate(f / "state.json", 0), "cannot be read .JSONDecodeError"),
        "state altered": (edit, "state.json was altered"),
        "state of something else": (lambda f: (f / "state.json").write_text("[]"), "is not of the format"),
        "state gone": (lambda f: (f / "state.json").unlink(), "cannot be read .FileNotFoundError"),
    }


def two_checkpoints(folder: Path) -> Checkpoints:
    checkpoints = Checkpoints(folder / "state", keep=2)
    for step in (1, 2):
        checkpoints.save(step, {"step": step, "x": torch.full((40,), float(step))})
    return checkpoints


@pytest.mark.parametrize("name", breakages())
def test_a_broken_checkpoint_is_noticed_set_aside_and_the_one_before_serves(name: str, tmp_path: Path) -> None:
    breaking, line = breakages()[name]
    checkpoints = two_checkpoints(tmp_path)
    breaking(tmp_path / "state" / "step-00000002")
    with pytest.warns(CheckpointWarning, match=line) as caught:
        state = checkpoints.load()
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert state["step"] == 1
    assert [path.name for path in checkpoints.folders()] == ["step-00000001"]
    assert (tmp_path / "state" / "aside-step-00000002").is_dir()
    assert checkpoints.load()["step"] == 1  # and it is said once


def test_if_all_are_broken_that_is_one_clear_error(tmp_path: Path) -> None:
    checkpoints = two_checkpoints(tmp_path)
    for folder in checkpoints.folders():
        os.truncate(folder / "tensors.safetensors", 10)
    with pytest.raises(CheckpointError, match=r"^no checkpoint is whole: .*00000002.*; .*00000001.*start over$"):
        checkpoints.load()


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in range(0, 50, 10):
        checkpoints.save(step, {"step": step})
    assert [path.name for path in checkpoints.folders()] == ["step-00000020", "step-00000030", "step-00000040"]
    checkpoints.save(40, {"step": "again"})
    assert checkpoints.load() == {"step": "again"}
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(ValueError, match="at least 1 checkpoint has to be kept"):
        Checkpoints(tmp_path, keep=0)


class KilledError(BaseException):
    """Nothing catches it and nothing is tidied up: the disk is left as by a killed process."""


def dying_at(moment: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets the process die before the `moment`-th thing that touches the disk."""
    touched: list[str] = []

    def guarded(name: str, act: Any) -> Any:
        def function(*args: Any, **kwargs: Any) -> Any:
            touched.append(name)
            if len(touched) == moment:
                raise KilledError
            return act(*args, **kwargs)

        return function

    monkeypatch.setattr(checkpoint, "save_file", guarded("tensors", checkpoint.save_file))
    monkeypatch.setattr(Path, "write_text", guarded("text", Path.write_text))
    for name in ("fsync", "rename", "replace"):
        monkeypatch.setattr(os, name, guarded(name, getattr(os, name)))
    monkeypatch.setattr(checkpoint.shutil, "rmtree", guarded("rmtree", checkpoint.shutil.rmtree))
    return touched


@pytest.mark.parametrize("step", [3, 2])
def test_dying_at_any_moment_of_a_save_leaves_a_whole_checkpoint(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 3 is a new one; step 2 replaces one that is there."""
    for moment in range(1, 40):
        folder = tmp_path / str(moment)
        checkpoints = two_checkpoints(folder)
        with monkeypatch.context() as patch:
            touched = dying_at(moment, patch)
            with contextlib.suppress(KilledError):
                checkpoints.save(step, {"step": step, "x": torch.full((40,), 30.0)})
        loaded = checkpoints.load()  # a warning would be an error here: nothing half-written is ever taken up
        assert (loaded["step"], float(loaded["x"][0])) in {(1, 1.0), (2, 2.0), (step, 30.0)}
        checkpoints.save(4, {"step": 4})
        assert not list((folder / "state").glob(".writing-*"))
        if len(touched) < moment:
            break
    assert moment > 8
    assert loaded["step"] == step


def test_the_order_on_disk_is_files_then_folder_then_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this order makes a name on the disk mean that its contents are there, after a power cut too."""
    forced: list[str] = []
    really, rename = checkpoint.to_disk, os.rename
    monkeypatch.setattr(checkpoint, "to_disk", lambda path: (forced.append(path.name), really(path)))
    monkeypatch.setattr(os, "rename", lambda a, b: (forced.append("renamed"), rename(a, b)))
    save_tree(tmp_path / "state" / "c", {"x": torch.zeros(3)})
    assert forced == ["tensors.safetensors", "state.json", ".writing-c", "renamed", "state"]


def test_a_full_disk_leaves_the_earlier_checkpoint_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = two_checkpoints(tmp_path)

    def full(path: Path, *rest: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match=r"could not be written .*No space left on device.* untouched$"):
        checkpoints.save(3, {"step": 3})
    assert checkpoints.load()["step"] == 2
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["step-00000001", "step-00000002"]


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    """In earnest, in a process whose files may have 100 kB: the tensors fail half-way."""
    two_checkpoints(tmp_path)
    script = f"""
import resource, signal, torch
from kedge.train import CheckpointError, Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
checkpoints = Checkpoints({str(tmp_path / "state")!r})
try:
    checkpoints.save(3, {{"x": torch.zeros(100_000)}})
except CheckpointError as error:
    print(error)
print(checkpoints.load()["step"])
"""
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=True
    ).stdout
    line, step = said.splitlines()
    assert "could not be written" in line
    assert step == "2"
    assert not list((tmp_path / "state").glob(".writing-*"))
