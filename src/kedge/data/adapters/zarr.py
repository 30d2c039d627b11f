"""zarr stores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedge.data.adapters.named import assemble, optional
from kedge.data.trajectories import Trajectories
from kedge.errors import InputError


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr group, of either version of the format."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def read(path: Path, keys: Mapping[str, str], finite: bool, one_stream: bool) -> Trajectories:
    """Trajectories from a zarr group: arrays in it, or Diffusion Policy's layout (`data/state`, `data/action`, ... and
    `meta/episode_ends`). Names are looked for without their folder.
    """
    zarr = optional("zarr", "zarr")
    where = str(path)
    try:
        root = zarr.open_group(str(path), mode="r")
        arrays: dict[str, Any] = {}
        for folder in (root, *(root[name] for name in ("data", "meta") if name in root)):
            arrays |= {name: array for name, array in folder.arrays() if array.ndim}
        return assemble(arrays, where, {"from": path.name, "format": "zarr"}, keys, finite, one_stream)
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where} cannot be read as zarr ({' '.join(str(error).split())})") from None
