"""The one format of everything that is saved: tensors in safetensors, all else in JSON, written whole or not at all.

A checkpoint is a folder with two files. `state.json` holds a tree of dictionaries, lists, numbers and text, in which
`{"$tensor": name}` stands for a tensor of `tensors.safetensors`; it also holds the size and the checksum of that file
and a checksum of itself. A folder is filled under another name, forced to the disk and then renamed, so that a process
killed at any moment leaves the earlier checkpoints as they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kedge.disk import UNREADABLE, to_disk

TENSORS, STATE, FORMAT = "tensors.safetensors", "state.json", "kedge checkpoint 1"
MARK, SCRATCH = "$tensor", ".writing-"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, read or used."""


class RefusedError(CheckpointError):
    """A folder holds another run: nothing in it is touched, and the message says in which fields the two differ."""


class CheckpointWarning(UserWarning):
    """The newest checkpoint was broken, or could not be written; the one before serves."""


def split(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """A tree as what JSON can say, and its tensors by the path to them."""
    tensors: dict[str, Tensor] = {}

    def words(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            name = path or "tensor"
            while name in tensors:  # {"a/b": x, "a": {"b": y}}
                name += "'"
            tensors[name] = node.detach()
            return {MARK: name}
        if isinstance(node, Mapping):
            return {_name(key, path): words(value, f"{path}/{key}".lstrip("/")) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [words(value, f"{path}/{index}".lstrip("/")) for index, value in enumerate(node)]
        if node is None or isinstance(node, bool | int | float | str):
            return node
        raise CheckpointError(f"cannot save {path or 'a tree'}: it is a {type(node).__name__}, no tensor and no JSON")

    return words(tree, ""), tensors


def _name(key: Any, path: str) -> str:
    if isinstance(key, str) and key != MARK:
        return key
    raise CheckpointError(f"cannot save {path or 'a tree'}: the key {key!r} is no name")


def join(words: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undoes `split` (tuples come back as lists)."""
    if isinstance(words, dict):
        if set(words) == {MARK}:
            return tensors[words[MARK]]
        return {key: join(value, tensors) for key, value in words.items()}
    return [join(value, tensors) for value in words] if isinstance(words, list) else words


def save_tree(folder: Path | str, tree: Any) -> None:
    """Writes a tree as a checkpoint folder, whole or not at all; one that is there is replaced."""
    folder = Path(folder)
    words, tensors = split(tree)
    scratch = folder.parent / f"{SCRATCH}{folder.name}"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        save_file(_apart(tensors), scratch / TENSORS)
        state = {"format": FORMAT, "tensors": _seal(scratch / TENSORS), "digest": _digest(words), "tree": words}
        (scratch / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        for path in (scratch / TENSORS, scratch / STATE, scratch):
            to_disk(path)
        _swap(scratch, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise CheckpointError(f"{folder} could not be written ({error}); what was saved before is untouched") from None


def load_tree(folder: Path | str) -> Any:
    """Reads a checkpoint folder back, on the CPU; says what is wrong with a broken one."""
    folder = Path(folder)
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise CheckpointError(f"{folder}: {STATE} is not of the format {FORMAT!r}")
        if state["digest"] != _digest(state["tree"]):
            raise CheckpointError(f"{folder}: {STATE} was altered (its checksum does not fit)")
        have, want = (folder / TENSORS).stat().st_size, state["tensors"]["bytes"]
        if have != want:
            raise CheckpointError(f"{folder}: {TENSORS} has {have} bytes instead of {want}")
        if _seal(folder / TENSORS) != state["tensors"]:
            raise CheckpointError(f"{folder}: {TENSORS} was altered (its checksum does not fit)")
        return join(state["tree"], load_file(folder / TENSORS))
    except (*UNREADABLE, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder} cannot be read ({type(error).__name__}: {reason})") from None


def save_weights(path: Path | str, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Writes named tensors as one safetensors file, whole or not at all."""
    path = Path(path)
    scratch = path.parent / f"{SCRATCH}{path.name}"
    try:
        save_file(_apart(tensors), scratch, metadata=dict(notes or {}))
        to_disk(scratch)
        os.replace(scratch, path)
        to_disk(path.parent)
    except (OSError, SafetensorError) as error:
        scratch.unlink(missing_ok=True)
        raise CheckpointError(f"{path} could not be written ({error}); the one before is untouched") from None


def load_weights(path: Path | str) -> dict[str, Tensor]:
    """Reads a file of named tensors, on the CPU."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from None


def weights_step(path: Path | str) -> int | None:
    """The training step that a file of weights is of; None where there is no such file, or it does not say."""
    try:
        with safe_open(path, "pt") as file:
            step = (file.metadata() or {}).get("step", "")
    except (OSError, SafetensorError):
        return None
    return int(step) if step.isdecimal() else None


def save_json(path: Path | str, tree: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    path = Path(path)
    scratch = path.parent / f"{SCRATCH}{path.name}"
    try:
        scratch.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
        to_disk(scratch)
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise CheckpointError(f"{path} could not be written ({error})") from None


class Checkpoints:
    """The checkpoints of a run, `state/step-00001000` and so on, of which the last `keep` are kept."""

    def __init__(self, folder: Path | str, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep: at least 1 checkpoint has to be kept, got {keep}")
        self.folder, self.keep = Path(folder), keep

    def folders(self) -> list[Path]:
        """What is there, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())

    def save(self, step: int, tree: Any) -> None:
        """Adds the checkpoint of `step`, and drops what is not to be kept."""
        save_tree(self.folder / f"step-{step:08d}", tree)
        self.tidy()

    def tidy(self) -> None:
        """Drops the checkpoints beyond the last `keep`, and what a process has left that was killed meanwhile."""
        unfinished = list(self.folder.glob(f"{SCRATCH}*"))
        for path in [*self.folders()[: -self.keep], *unfinished]:
            shutil.rmtree(path, ignore_errors=True)

    def load(self) -> Any:
        """The newest checkpoint that can be read, None if there is none at all.

        A broken one is set aside with one line of warning; if all are broken, that is an error.
        """
        broken: list[tuple[Path, CheckpointError]] = []
        for folder in reversed(self.folders()):
            try:
                tree = load_tree(folder)
            except CheckpointError as error:
                broken.append((folder, error))
                continue
            for path, error in broken:
                warnings.warn(f"{error}; going on from {folder.name} instead", CheckpointWarning, stacklevel=2)
                _set_aside(path)
            return tree
        if broken:
            found = "; ".join(str(error) for _, error in broken)
            raise CheckpointError(f"no checkpoint is whole: {found}. Remove {self.folder} to start over")
        return None


def differences(there: Mapping[str, Any], here: Mapping[str, Any], at: str = "") -> list[str]:
    """The fields in which two JSON trees differ, as `path: a there, b here`."""
    found: list[str] = []
    for key in sorted(there.keys() | here.keys()):
        a, b = there.get(key, "nothing"), here.get(key, "nothing")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{at}{key}.")
        elif a != b:
            found.append(f"{at}{key}: {a} there, {b} here")
    return found


def plain(tree: Any, what: str) -> Any:
    """A tree as JSON gives it back (tuples become lists), so that it can be compared with a saved one."""
    try:
        return json.loads(json.dumps(tree))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what}: only what JSON can hold ({error})") from None


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, each contiguous and with memory of its own: the file format takes no others."""
    taken: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ready = tensor.detach().to("cpu").contiguous()
        storage = ready.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() != ready.nbytes:
            ready = ready.clone(memory_format=torch.contiguous_format)
        taken.add(ready.untyped_storage().data_ptr())
        apart[name] = ready
    return apart


def _seal(path: Path) -> dict[str, Any]:
    """The size and the checksum of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def digest(tree: Any) -> str:
    """A checksum of a tree, tensors and all."""
    words, tensors = split(tree)
    found = hashlib.sha256(_digest(words).encode())
    for name, tensor in _apart(tensors).items():
        found.update(name.encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _digest(words: Any) -> str:
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def _swap(scratch: Path, folder: Path) -> None:
    """Puts a finished folder in its place."""
    aside = _set_aside(folder) if folder.exists() else None
    os.rename(scratch, folder)
    to_disk(folder.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    """Renames a folder that is not to be used, instead of losing it."""
    aside = folder.with_name(f"aside-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    return aside
