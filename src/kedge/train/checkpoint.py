"""The one format of everything that is saved: tensors in safetensors, all else in JSON, written whole or not at all.

A checkpoint is a folder with two files. `state.json` holds a tree of dictionaries, lists, numbers and text, in which
`{"$tensor": name}` stands for a tensor of `tensors.safetensors`; it also holds the size and the checksum of that file
and a checksum of itself. A folder is filled under another name, forced to the disk and then renamed, so that a process
killed at any moment leaves the earlier checkpoints as they were.

Processes that hold tensors in shards write a file each in place of `tensors.safetensors` (see `kedge.train.pieces`);
`state.json` has the size and the checksum of every one of them. Whoever reads sees no difference.
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
from kedge.train.crew import ALONE, Crew
from kedge.train.shards import Layout, is_shard

TENSORS, STATE, FORMAT = "tensors.safetensors", "state.json", "kedge checkpoint 1"
PIECES = "shard-*.safetensors"
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


def save_tree(folder: Path | str, tree: Any, crew: Crew = ALONE) -> None:
    """Writes a tree as a checkpoint folder, whole or not at all; one that is there is replaced. A `crew` of several
    writes it together, each its own rows.
    """
    folder = Path(folder)
    words, tensors = split(tree)
    scratch = folder.parent / f"{SCRATCH}{folder.name}"

    def begin() -> None:
        if crew.first:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)

    def finish() -> None:
        if crew.first:
            _write_state(scratch, words, {name: seal for its in seals for name, seal in its.items()})
            _swap(scratch, folder)

    errors = (OSError, SafetensorError)
    try:
        crew.all_or_none(begin, *errors)
        seals = crew.all_or_none(lambda: _write_tensors(scratch, tensors, crew), *errors)
        crew.all_or_none(finish, *errors)
    except (OSError, SafetensorError) as error:
        if crew.first:
            shutil.rmtree(scratch, ignore_errors=True)
        raise CheckpointError(f"{folder} could not be written ({error}); what was saved before is untouched") from None


def _write_tensors(folder: Path, tensors: Mapping[str, Tensor], crew: Crew) -> dict[str, Any]:
    """Puts tensors on the disk; returns the seals of the files that this process has written."""
    if crew.size == 1:
        save_file(_apart(tensors), folder / TENSORS)
        to_disk(folder / TENSORS)
        return {TENSORS: _seal(folder / TENSORS)}
    from kedge.train.pieces import write_pieces

    alike = _apart({name: tensor for name, tensor in tensors.items() if not is_shard(tensor)})
    return {path.name: _seal(path) for path in write_pieces(folder, {**tensors, **alike}, crew)}


def _write_state(folder: Path, words: Any, seals: Mapping[str, Any]) -> None:
    """What makes files of tensors a checkpoint."""
    if unseen := [name for name in seals if not (folder / name).exists()]:
        raise OSError(f"{', '.join(unseen)} is not here: all processes have to see one and the same folder")
    kept = {"tensors": seals[TENSORS]} if TENSORS in seals else {"pieces": seals}
    state = {"format": FORMAT, **kept, "digest": _digest(words), "tree": words}
    (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    for path in (folder / STATE, folder):
        to_disk(path)


def load_tree(folder: Path | str, layout: Layout | None = None) -> Any:
    """Reads a checkpoint folder back, on the CPU; says what is wrong with a broken one. Of tensors that `layout` knows,
    a sharded checkpoint gives only the rows of this process.
    """
    folder = Path(folder)
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise CheckpointError(f"{folder}: {STATE} is not of the format {FORMAT!r}")
        if state["digest"] != _digest(state["tree"]):
            raise CheckpointError(f"{folder}: {STATE} was altered (its checksum does not fit)")
        if "pieces" not in state:
            _check(folder / TENSORS, state["tensors"])
            return join(state["tree"], load_file(folder / TENSORS))
        _check_pieces(folder, state["pieces"])
        from kedge.train.pieces import read_pieces

        return join(state["tree"], read_pieces(folder, layout))
    except (*UNREADABLE, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder} cannot be read ({type(error).__name__}: {reason})") from None


def _check(path: Path, seal: Mapping[str, Any]) -> None:
    """A file is what it was when it was written, or this says in what it is not."""
    have, want = path.stat().st_size, seal["bytes"]
    if have != want:
        raise CheckpointError(f"{path.parent}: {path.name} has {have} bytes instead of {want}")
    if _seal(path) != seal:
        raise CheckpointError(f"{path.parent}: {path.name} was altered (its checksum does not fit)")


def _check_pieces(folder: Path, seals: Mapping[str, Any]) -> None:
    """All pieces are there, and no other: a reader takes what it finds."""
    there = {path.name for path in folder.glob(PIECES)}
    if missing := sorted(seals.keys() - there):
        raise CheckpointError(f"{folder}: of its {len(seals)} pieces {', '.join(missing)} is missing")
    if not seals or there - seals.keys():
        raise CheckpointError(f"{folder}: {STATE} names {len(seals)} pieces, and {len(there)} are there")
    for name, seal in seals.items():
        _check(folder / name, seal)


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
    """The checkpoints of a run, `state/step-00001000` and so on, of which the last `keep` are kept. A `crew` of several
    writes each of them together.
    """

    def __init__(self, folder: Path | str, keep: int = 2, crew: Crew = ALONE) -> None:
        if keep < 1:
            raise ValueError(f"keep: at least 1 checkpoint has to be kept, got {keep}")
        self.folder, self.keep, self.crew = Path(folder), keep, crew

    def folders(self) -> list[Path]:
        """What is there, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())

    def save(self, step: int, tree: Any) -> None:
        """Adds the checkpoint of `step`, and drops what is not to be kept."""
        save_tree(self.folder / f"step-{step:08d}", tree, self.crew)
        if self.crew.first:
            self.tidy()

    def tidy(self) -> None:
        """Drops the checkpoints beyond the last `keep`, and what a process has left that was killed meanwhile."""
        unfinished = list(self.folder.glob(f"{SCRATCH}*"))
        for path in [*self.folders()[: -self.keep], *unfinished]:
            shutil.rmtree(path, ignore_errors=True)

    def load(self, layout: Layout | None = None) -> Any:
        """The newest checkpoint that can be read, None if there is none at all; `layout` as in `load_tree`.

        A broken one is set aside with one line of warning; if all are broken, that is an error.
        """
        broken: list[tuple[Path, CheckpointError]] = []
        for folder in reversed(self.folders()):
            try:
                tree = load_tree(folder, layout)
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
    """A checksum of a tree, tensors and all. A sharded tensor counts by its name, for every process has other rows."""
    words, tensors = split(tree)
    tensors = {name: tensor for name, tensor in tensors.items() if not is_shard(tensor)}
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
