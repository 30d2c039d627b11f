"""Data sets of every format that are damaged, or are not what they say."""

from __future__ import annotations

import importlib.util
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from drilling.scene import logged
from drilling.sources.broken import breaks
from drilling.sources.given import EXECUTED, SMALL, Given
from drilling.sources.trees import breaks_json

Arrays = dict[str, Any]


class Trap:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, (f"open({EXECUTED!r}, 'w').close()",)


def draw(rng: random.Random, place: Path) -> Given:
    """A set in one of the formats, broken in what it holds, in how that is written, or in both."""
    arrays = logged(60)
    said = [rng.choice(CHANGES)(rng, arrays) for _ in range(rng.choice((0, 1, 1, 2)))]
    makers = [maker for name, maker in FORMATS.items() if name is None or importlib.util.find_spec(name)]
    path, what = rng.choice(makers)(rng, place / "sets", arrays, bool(said))
    file = str(path.relative_to(place))
    wanted = [["data", "inspect", file], ["train", "fv", "--data", file, *SMALL, "--out", "runs/new"]]
    return Given(rng.choice(wanted), f"{path.name}: {', '.join(said)} {what}")


# What it holds


def _name(rng: random.Random, arrays: Arrays) -> str:
    return rng.choice(sorted(arrays))


def _gone(rng: random.Random, arrays: Arrays) -> str:
    name = _name(rng, arrays)
    del arrays[name]
    return f"no {name}"


def _dtype(rng: random.Random, arrays: Arrays) -> str:
    name, kind = _name(rng, arrays), rng.choice(("f2", "f8", "i1", "u8", "?", "c8", "U3", "S2", "M8[s]", "V4"))
    with np.errstate(all="ignore"):
        if kind in ("M8[s]", "V4") or np.asarray(arrays[name]).dtype.kind == "O":
            arrays[name] = np.zeros(np.shape(arrays[name]), kind)
        else:
            arrays[name] = np.nan_to_num(np.asarray(arrays[name], float)).astype(kind)
    return f"{name} {kind}"


def _shape(rng: random.Random, arrays: Arrays) -> str:
    name = _name(rng, arrays)
    values = np.asarray(arrays[name])
    ways: list[Callable[[Any], Any]] = [
        lambda v: v.T, lambda v: v[None], lambda v: v[..., None], lambda v: v.reshape(-1), lambda v: v[:0],
        lambda v: v[:-1], lambda v: v[:1], lambda v: v.sum(), lambda v: np.concatenate([v, v]), lambda v: v[..., :0],
    ]  # fmt: skip
    arrays[name] = rng.choice(ways)(values) if values.dtype.kind in "fiub" else values
    return f"{name} {list(np.shape(arrays[name]))}"


def _number(rng: random.Random, arrays: Arrays) -> str:
    name, odd = _name(rng, arrays), rng.choice((np.nan, np.inf, -np.inf, 1e300, -1e30, -1.0))
    values = np.array(arrays[name])
    if values.size and values.dtype.kind in "fi":
        with np.errstate(all="ignore"):
            values = values.astype(float)
            values.flat[rng.randrange(values.size)] = odd
            arrays[name] = values
    return f"{name} with {odd}"


def _ends(rng: random.Random, arrays: Arrays) -> str:
    arrays["ends"] = rng.choice(
        [np.array(odd) for odd in ([60, 30], [0, 60], [30], [-1, 60], [], [61], [30.5, 60], [2**62, 60], [[60]], 60)]
    )
    return f"ends {np.asarray(arrays['ends']).ravel()[:3]}"


def _objects(rng: random.Random, arrays: Arrays) -> str:
    name = rng.choice((*sorted(arrays), "more"))
    held = np.empty(rng.choice((1, 60)), object)
    held[:] = [Trap() for _ in held]
    arrays[name] = held
    return f"{name} of objects"


def _flags(rng: random.Random, arrays: Arrays) -> str:
    arrays.pop("ends", None)
    arrays["terminals"] = np.arange(rng.choice((60, 59, 0))) % 30 == 29
    return "flags"


def _named(rng: random.Random, arrays: Arrays) -> str:
    name = rng.choice(("meta", "a b", "ü", "where", "cls", "x.y", "0", "observations2", "self"))
    arrays[name] = np.zeros(60, np.float32)
    return f"a column {name!r}"


CHANGES = (_gone, _dtype, _dtype, _shape, _shape, _number, _number, _ends, _objects, _flags, _named)


# How it is written


def _npz(rng: random.Random, root: Path, arrays: Arrays, changed: bool) -> tuple[Path, str]:
    root.mkdir()
    path = root / rng.choice(("set.npz", "set.npz", "set.npz", "set.NPZ", "ü.npz", "set.hdf5", "set.zarr", "set"))
    with path.open("wb") as file:
        np.savez(file, **arrays)
    if changed and rng.random() < 0.8:
        return path, ""
    if rng.random() < 0.4:
        return path, _declared(rng, path, arrays)
    return path, breaks(rng, path)


def _declared(rng: random.Random, path: Path, arrays: Arrays) -> str:
    """An array whose header declares more than there is, or no shape at all."""
    shape = rng.choice(
        ("(1000000000000, 4)", "(60, 1000000000000)", "(-1, 4)", "(60,", "(2**40, 4)", "'a'", "(60.0, 4)")
    )
    kind = rng.choice(("<f4", "<f4", "|O", "<f1024", "junk"))
    words = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    words += b" " * (63 - (len(words) + 10) % 64) + b"\n"
    with zipfile.ZipFile(path, "w") as file:
        for name, values in arrays.items():
            held = io.BytesIO()
            np.save(held, values, allow_pickle=True)
            body = held.getvalue()
            if name == "observations":
                body = b"\x93NUMPY\x01\x00" + len(words).to_bytes(2, "little") + words + body[128:]
            file.writestr(f"{name}.npy", body)
    return f"observations declared as {kind} {shape}"


def _hdf5(rng: random.Random, root: Path, arrays: Arrays, changed: bool) -> tuple[Path, str]:
    import h5py

    root.mkdir()
    path, odd = root / rng.choice(("set.hdf5", "set.hdf5", "set.h5", "set.npz")), ""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            try:
                file[name] = values
            except (TypeError, ValueError):
                odd = f"{name} as a group"
                file.require_group(name + "_")
        if not changed and rng.random() < 0.4:
            name = rng.choice(("observations", "actions", "rewards"))
            if name in file:
                del file[name]
            file.create_dataset(name, shape=(10**9, 10**6), dtype="f4", chunks=(1000, 1000))
            odd = f"{name} declared huge"
    return path, odd if changed or odd else breaks(rng, path)


def _zarr(rng: random.Random, root: Path, arrays: Arrays, changed: bool) -> tuple[Path, str]:
    import zarr

    path = root / "set.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=rng.choice((2, 3)))
    odd = ""
    for name, values in arrays.items():
        values = np.asarray(values)
        if values.dtype.kind not in "fiub" or not values.ndim:
            odd = f"{name} left out"
            continue
        group.create_array(name.replace(" ", "_"), data=values, chunks=tuple(max(1, n // 2) for n in values.shape))
    files = sorted(one for one in path.rglob("*") if one.is_file())
    if changed and rng.random() < 0.7:
        return path, odd
    one = rng.choice(files)
    return path, breaks_json(rng, one) if one.suffix == ".json" or one.name.startswith(".z") else breaks(rng, one)


def _own(rng: random.Random, root: Path, arrays: Arrays, changed: bool) -> tuple[Path, str]:
    from kedge.data import Trajectories

    path = Trajectories.of(**logged(60)).save(root / "set")
    if not changed:
        one = rng.choice(sorted(path.iterdir()))
        return path, breaks_json(rng, one) if one.suffix == ".json" else breaks(rng, one)
    name = _name(rng, arrays) if arrays else "observations"
    if name in arrays:
        np.save(path / f"{name}.npy", arrays[name], allow_pickle=True)
    if rng.random() < 0.5 and name in arrays:  # as one who wants to be believed
        told = json.loads((path / "meta.json").read_text())
        values = np.asarray(arrays[name])
        if name != "ends":
            told["columns"][name] = [values.dtype.str, list(values.shape)]
        (path / "meta.json").write_text(json.dumps(told))
    return path, f"{name}.npy is another"


def _minari(rng: random.Random, root: Path, arrays: Arrays, changed: bool) -> tuple[Path, str]:
    import h5py

    path, data = root / "set-v0", root / "set-v0" / "data"
    data.mkdir(parents=True)
    space = {"type": "Box", "dtype": "float32", "shape": [4], "low": [-10.0] * 4, "high": [10.0] * 4}
    told = {
        "dataset_id": "set-v0", "total_episodes": 2, "total_steps": 60, "minari_version": "0.5.4",
        "data_format": "hdf5", "observation_space": json.dumps(space), "dataset_size": 0.1,
        "action_space": json.dumps(space | {"shape": [2], "low": [-1.0] * 2, "high": [1.0] * 2}),
    }  # fmt: skip
    (data / "metadata.json").write_text(json.dumps(told))
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for number in range(2):
            episode = file.create_group(f"episode_{number}")
            episode.attrs.update({"id": number, "total_steps": 30})
            rows = slice(30 * number, 30 * number + 30)
            for name in ("observations", "actions", "rewards"):
                values = np.asarray(arrays.get(name, np.zeros(60)))
                if values.dtype.kind in "fiub" and values.ndim:
                    episode[name] = (
                        np.concatenate([values[rows], values[:1]]) if name == "observations" else values[rows]
                    )
            episode["terminations"] = episode["truncations"] = np.arange(30) == 29
    if changed and rng.random() < 0.7:
        return path, ""
    if rng.random() < 0.5:
        return path, breaks_json(rng, data / "metadata.json")
    return path, breaks(rng, data / "main_data.hdf5")


FORMATS: dict[str | None, Any] = {None: _npz, "h5py": _hdf5, "zarr": _zarr, "minari": _minari, "json": _own}
