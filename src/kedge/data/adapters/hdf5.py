"""HDF5 files in D4RL's layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedge.data.adapters.named import READER, assemble, reading
from kedge.data.trajectories import Trajectories
from kedge.extras import optional


def read(path: Path, keys: Mapping[str, str], finite: bool, one_stream: bool) -> Trajectories:
    """Trajectories from an HDF5 file in D4RL's layout: `observations`, `actions`, `rewards`, `terminals`, `timeouts`.

    An episode ends at every terminal and every timeout. Flags that are there and mark no step mean one stream: some of
    D4RL's files are. A file without flags and without ends is one stream only where `one_stream` says so.
    Whatever else has a row for each step is kept, `infos/goal` as `infos.goal`; `next_observations`, which repeats the
    observations, is not.
    """
    h5py = optional("h5py", "hdf5", READER)
    arrays: dict[str, Any] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item

    with reading(str(path), "HDF5"), h5py.File(path, "r") as file:
        file.visititems(keep)
        source = {"from": path.name, "format": "hdf5"}
        return assemble(arrays, str(path), source, keys, finite, one_stream, leave=("next_observations",))
