"""HDF5 files in D4RL's layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedge.data.adapters.named import assemble, optional
from kedge.data.trajectories import Trajectories
from kedge.errors import InputError


def read(path: Path, keys: Mapping[str, str], finite: bool, one_stream: bool) -> Trajectories:
    """Trajectories from an HDF5 file in D4RL's layout: `observations`, `actions`, `rewards`, `terminals`, `timeouts`.

    An episode ends at every terminal and every timeout. A file that marks neither is one stream: some of D4RL's are.
    Whatever else has a row for each step is kept, `infos/goal` as `infos.goal`; `next_observations`, which repeats the
    observations, is not.
    """
    h5py = optional("h5py", "hdf5")
    arrays: dict[str, Any] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item

    try:
        with h5py.File(path, "r") as file:
            file.visititems(keep)
            stream = one_stream or "terminals" in arrays
            source = {"from": path.name, "format": "hdf5"}
            return assemble(arrays, str(path), source, keys, finite, stream, leave=("next_observations",))
    except OSError as error:
        raise InputError(f"{path} cannot be read as HDF5 ({' '.join(str(error).split())})") from None
