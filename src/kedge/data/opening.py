"""Opens logged behaviour, whatever it is kept in."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from kedge.data.adapters import hdf5, lerobot, minari, npz, zarr
from kedge.data.folder import META, is_store
from kedge.data.trajectories import Trajectories
from kedge.errors import InputError

SUFFIXES = {".npz": npz.read, ".hdf5": hdf5.read, ".h5": hdf5.read, ".zarr": zarr.read}


def open(  # noqa: A001  the word that one looks for
    source: Path | str,
    *,
    keys: Mapping[str, str] | None = None,
    finite: bool = True,
    one_stream: bool = False,
) -> Trajectories:
    """Opens trajectories.

    Args:
        source: a folder that `Trajectories.save` has made, which stays on disk; a `.hdf5` file in D4RL's layout; a
            `.npz` file; a zarr store; the folder or the name of a Minari or a LeRobot data set on this machine. All but
            the first are read into memory, in float32.
        keys: for `.npz`, `.hdf5`, zarr and LeRobot, what columns are called there, where it is unusual:
            `keys={"observations": "x"}`.
        finite: False lets infinities and nan pass, to be looked at.
        one_stream: True takes a file that says nothing about ends of episodes as one episode.
    """
    path, keys = _expanded(source), dict(keys or {})
    if path.is_dir():
        if is_store(path):
            _refuse_keys(keys, path, "kedge's own")
            return Trajectories.open(path)
        if zarr.is_zarr(path):
            return zarr.read(path, keys, finite, one_stream)
        if minari.is_minari(path):
            _refuse_keys(keys, path, "Minari's")
            return minari.read(path, finite)
        if lerobot.is_lerobot(path):
            return lerobot.read(path, keys, finite)
        raise InputError(
            f"{path} is a folder, but no kedge trajectories ({META}), no zarr, no Minari and no LeRobot data set"
        )
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: unknown suffix {path.suffix!r}, known are {', '.join(SUFFIXES)}")
        return SUFFIXES[path.suffix.lower()](path, keys, finite, one_stream)
    if (found := minari.by_name(str(source))) is not None:
        _refuse_keys(keys, found, "Minari's")
        return minari.read(found, finite)
    if (found := lerobot.by_name(str(source))) is not None:
        return lerobot.read(found, keys, finite)
    raise InputError(f"{source}: no such file{_near(path)}{_near_names(str(source))}")


def _expanded(source: Path | str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise InputError(f"{source}: no such file; there is no user of that name") from None


def _refuse_keys(keys: Mapping[str, str], path: Path, whose: str) -> None:
    if keys:
        raise InputError(
            f"{path}: keys are for files that others have written, .npz, .hdf5, zarr and LeRobot, not for {whose}"
        )


def _near(path: Path) -> str:
    """Names like it, in the nearest folder that exists."""
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    there = get_close_matches(path.name, [p.name for p in path.parent.iterdir()], 3, 0.5)
    return f"; did you mean {' or '.join(there)}?" if there else ""


def _near_names(name: str) -> str:
    if not minari.NAME.fullmatch(name):
        return ""
    there = minari.near(name)
    asked = f"; no Minari data set of that name in {minari.home()} either"
    return asked + (f", but {' and '.join(there)}" if there else "") + f": try `minari download {name}`"
