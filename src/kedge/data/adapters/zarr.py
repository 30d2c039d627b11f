"""zarr stores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedge.data.adapters.named import READER, assemble, reading
from kedge.data.trajectories import Trajectories
from kedge.extras import optional


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr group, of either version of the format."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def read(path: Path, keys: Mapping[str, str], finite: bool, one_stream: bool) -> Trajectories:
    """Trajectories from a zarr group: arrays in it, or Diffusion Policy's layout (`data/state`, `data/action`, ... and
    `meta/episode_ends`). Names are looked for without their folder. `data` and `meta` may also be arrays themselves.
    """
    zarr = optional("zarr", "zarr", READER)
    where = str(path)
    with reading(where, "zarr"):
        root = zarr.open_group(str(path), mode="r")
        below = [root[name] for name in ("data", "meta") if name in root]
        arrays: dict[str, Any] = {}
        for folder in (root, *(one for one in below if isinstance(one, zarr.Group))):
            arrays |= {name: array for name, array in folder.arrays() if array.ndim}
        return assemble(arrays, where, {"from": path.name, "format": "zarr"}, keys, finite, one_stream)
