"""Trajectories on disk: a folder with a `.npy` file for each column and `meta.json`, written whole or not at all."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import secrets
import shutil
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from kedge.data.columns import NUMBERS
from kedge.disk import UNREADABLE, to_disk
from kedge.errors import InputError

FORMAT = "kedge-trajectories-1"
META = "meta.json"
SCRATCH = ".writing-"

BROKEN = (
    *(OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, AssertionError, ImportError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),  # the first two: numpy's headers are Python
    MemoryError,  # a header may declare what no machine holds
)
"""What the readers of other formats raise over a file that is damaged or none of theirs."""

Kind = tuple[str, tuple[int, ...]]
"""A column's type and shape."""


def kind(values: np.ndarray) -> Kind:
    """A column's type and shape."""
    return values.dtype.str, values.shape


def digest_of(kinds: Mapping[str, Kind], sums: Mapping[str, str], ends: np.ndarray) -> str:
    """One hash for all columns and the ends."""
    named = {name: [*kinds[name], sums[name]] for name in sorted(kinds)}
    said = json.dumps([FORMAT, named, hashlib.sha256(ends.astype("<i8").tobytes()).hexdigest()])
    return hashlib.sha256(said.encode()).hexdigest()


def is_store(folder: Path) -> bool:
    """Whether a folder holds trajectories."""
    return (folder / META).is_file()


class Column:
    """One `.npy` file that grows by rows. Its header is written again once their number is known."""

    def __init__(self, path: Path, like: np.ndarray) -> None:
        self.dtype, self.row, self.rows = like.dtype, like.shape[1:], 0
        self.hash = hashlib.sha256()
        self.file: BufferedWriter = path.open("wb")
        self._header()
        self._body = self.file.tell()

    def _header(self) -> None:
        # numpy leaves room in the header for the first number of the shape to grow.
        shape = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.rows, *self.row)}
        npy.write_array_header_1_0(self.file, shape)

    def append(self, values: np.ndarray) -> None:
        """Adds rows."""
        data = np.ascontiguousarray(values).data
        self.hash.update(data)
        self.file.write(data)
        self.rows += len(values)

    def finish(self) -> None:
        """Says how many rows there are, and forces them to the disk."""
        self.file.seek(0)
        self._header()
        assert self.file.tell() == self._body
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


class Writer:
    """Writes a folder of trajectories beside its place and puts it there at the end. A context: an error or an
    interrupt removes what was begun; a killed process leaves a folder that is never opened, and that the next one
    for the same place removes.
    """

    def __init__(self, folder: Path, provenance: Mapping[str, Any], replace: bool = False) -> None:
        if folder.exists() and not (replace and is_store(folder)):
            why = "holds other trajectories: replace=True overwrites them" if is_store(folder) else "is something else"
            raise InputError(f"{folder} exists and {why}")
        self.folder, self.provenance, self.replace = folder, dict(provenance), replace
        self.scratch = folder.parent / f"{SCRATCH}{folder.name}-{os.getpid()}-{secrets.token_hex(4)}"
        self.columns: dict[str, Column] = {}

    def __enter__(self) -> Writer:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            for old in self.folder.parent.glob(f"{SCRATCH}{glob.escape(self.folder.name)}-*"):
                if not _alive(old):
                    shutil.rmtree(old, ignore_errors=True)
            self.scratch.mkdir()
        except OSError as error:
            raise self._failed(error) from None
        return self

    def __exit__(self, *raised: object) -> None:
        for one in self.columns.values():
            with suppress(OSError):  # a full disk was said before; closing tries once more
                one.file.close()
        shutil.rmtree(self.scratch, ignore_errors=True)  # on success it is no longer there

    def append(self, columns: Mapping[str, np.ndarray], where: str) -> None:
        """Adds rows to every column: the same columns each time, of the same type and width."""
        try:
            self._append(columns, where)
        except OSError as error:
            raise self._failed(error) from None

    def finish(self, ends: np.ndarray) -> None:
        """Completes the folder and puts it in its place."""
        try:
            self._finish(ends)
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> InputError:
        return InputError(f"{self.folder} could not be written ({error.strerror}); what was begun is removed")

    def _append(self, columns: Mapping[str, np.ndarray], where: str) -> None:
        if not self.columns:
            self.columns = {name: Column(self.scratch / f"{name}.npy", values) for name, values in columns.items()}
        if odd := sorted(self.columns.keys() ^ columns.keys()):
            raise InputError(f"{where}: {odd[0]} is there in some episodes and not in others")
        for name, values in columns.items():
            have, want = (values.dtype, values.shape[1:]), (self.columns[name].dtype, self.columns[name].row)
            if have != want:
                raise InputError(f"{where}: {name} has rows of {have[1]} {have[0]}, before it were {want[1]} {want[0]}")
            self.columns[name].append(values)

    def _finish(self, ends: np.ndarray) -> None:
        for one in self.columns.values():
            one.finish()
        np.save(self.scratch / "ends.npy", ends)
        kinds = {name: (one.dtype.str, (one.rows, *one.row)) for name, one in self.columns.items()}
        sums = {name: one.hash.hexdigest() for name, one in self.columns.items()}
        digest = digest_of(kinds, sums, ends)
        meta = {"format": FORMAT, "columns": kinds, "digest": digest, "provenance": self.provenance}
        (self.scratch / META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        for path in (self.scratch / "ends.npy", self.scratch / META, self.scratch):
            to_disk(path)
        if self.folder.exists() and not self.replace:  # another process was quicker
            if read_meta(self.folder)["digest"] != digest:
                raise InputError(f"{self.folder} was written by another process meanwhile, with other data")
        elif self.folder.exists():
            aside = self.scratch.with_name(f"{self.scratch.name}-replaced")
            os.rename(self.folder, aside)
            os.rename(self.scratch, self.folder)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(self.scratch, self.folder)
        to_disk(self.folder.parent)


def read_meta(folder: Path) -> dict[str, Any]:
    """What a folder says of itself."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no trajectories, for there is no {META} in it") from None
    except UNREADABLE as error:
        raise InputError(f"{folder / META} cannot be read ({error})") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise InputError(f"{folder / META} is not of the format {FORMAT!r}")
    for name, type_ in (("columns", dict), ("digest", str), ("provenance", dict)):
        if not isinstance(meta.get(name), type_):
            raise InputError(f"{folder / META} was altered: it does not say the {name}")
    if missing := {"observations", "actions"} - meta["columns"].keys():
        raise InputError(f"{folder / META} was altered: there are no {min(missing)} among the columns")
    return meta


def read_store(folder: Path, meta: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The columns, mapped from disk, and `ends`."""
    said: Mapping[str, Any] = meta["columns"]
    found: dict[str, np.ndarray] = {}
    for name in [*said, "ends"]:
        path = folder / f"{name}.npy"
        try:
            found[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise InputError(f"{path} is missing: the folder was altered") from None
        except BROKEN as error:
            raise InputError(f"{path} cannot be read ({' '.join(str(error).split())})") from None
        if name in said and [found[name].dtype.str, list(found[name].shape)] != said[name]:
            raise InputError(f"{path} was altered: it is {kind(found[name])}, written was {said[name]}")
        if not found[name].ndim or found[name].dtype.kind not in NUMBERS:
            raise InputError(f"{path} was altered: it is {kind(found[name])}, no rows of numbers")
    return found


def _alive(scratch: Path) -> bool:
    """Whether the process that writes there still runs."""
    try:
        os.kill(int(scratch.name.removesuffix("-replaced").split("-")[-2]), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True
