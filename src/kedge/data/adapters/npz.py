"""Plain `.npz` files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kedge.data.adapters.named import assemble, reading
from kedge.data.trajectories import Trajectories
from kedge.errors import InputError


class Members(Mapping[str, Any]):
    """A file's arrays. An array's type and shape are known from its header; it is read where it is used."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.names = [name.removesuffix(".npy") for name in file.zip.namelist() if name.endswith(".npy")]

    def __getitem__(self, name: str) -> Member:
        if name not in self.names:
            raise KeyError(name)
        return Member(self.file, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Member:
    """One array, not yet read."""

    def __init__(self, file: Any, name: str) -> None:
        self.file, self.name = file, name
        with file.zip.open(f"{name}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, _, self.dtype = header(stream)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.file[self.name][rows]


def read(path: Path, keys: Mapping[str, str], finite: bool, one_stream: bool) -> Trajectories:
    """Trajectories from a `.npz` file, whose arrays may have any of the usual names."""
    where = str(path)
    # Opened here: numpy would leave a file open that turns out to be none of its own.
    with reading(where, ".npz"), path.open("rb") as raw:
        if raw.read(2) != b"PK":  # what every zip file begins with
            raise InputError(f"{where} is no .npz file")
        raw.seek(0)
        with np.load(raw, allow_pickle=False) as file:
            return assemble(Members(file), where, {"from": path.name, "format": "npz"}, keys, finite, one_stream)
