"""Weights and states that are cut short, turned over, taken from elsewhere."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path

from drilling.scene import ALIGN, TRAIN
from drilling.sources.broken import breaks
from drilling.sources.given import Given
from drilling.sources.run_files import reading
from drilling.sources.trees import breaks_json, changed

HUGE = (2**62, 2**31, 10**9, -1)


def draw(rng: random.Random, place: Path) -> Given:
    """A file of tensors, a folder of a state, or two of them exchanged."""
    return rng.choice((_weights, _weights, _state, _state, _swapped))(rng, place)


def _weights(rng: random.Random, place: Path) -> Given:
    run = rng.choice(("runs/fv", "runs/al"))
    path = rng.choice(sorted((place / run).glob("*.safetensors")))
    what = breaks(rng, path) if rng.random() < 0.5 else header(rng, path)
    return Given(list(rng.choice(reading(run))), f"{run}: {what}")


def header(rng: random.Random, path: Path) -> str:
    """Another header: what tensors there are, of what type, where."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    if rng.random() < 0.2:
        path.write_bytes(struct.pack("<Q", rng.choice((0, 1, size - 1, size + 1, len(data), 2**40, 2**63))) + data[8:])
        return f"{path.name}: another length of its header"
    told = json.loads(data[8 : 8 + size])
    name = rng.choice([name for name in told if name != "__metadata__"])
    kind = rng.randrange(5)
    if kind == 0:
        told[name]["shape"] = [rng.choice(HUGE) for _ in told[name]["shape"] or [0]]
    elif kind == 1:
        told[name]["dtype"] = rng.choice(("F64", "I8", "BOOL", "XX", "BF16", ""))
    elif kind == 2:
        told[name]["data_offsets"] = [rng.choice((0, 4, *HUGE)), rng.choice((0, 4, *HUGE))]
    elif kind == 3:
        told["other"] = told.pop(name)
    else:
        told, _ = changed(rng, told)
    words = json.dumps(told).encode()
    path.write_bytes(struct.pack("<Q", len(words)) + words + data[8 + size :])
    return f"{path.name}: another header ({kind})"


def _state(rng: random.Random, place: Path) -> Given:
    """Of a run that is to go on."""
    folder = rng.choice(sorted((place / "runs/half/state").iterdir()))
    path = folder / rng.choice(("state.json", "tensors.safetensors"))
    if rng.random() < 0.1:
        shutil.rmtree(folder)
        what = "is missing"
    elif path.suffix == ".json":
        what = breaks_json(rng, path)
    else:
        what = breaks(rng, path) if rng.random() < 0.7 else header(rng, path)
    return Given([*TRAIN, "--out", "runs/half"], f"runs/half, {folder.name}: {what}")


def _swapped(rng: random.Random, place: Path) -> Given:
    """A file of one run in the place of another's."""
    pairs = [
        ("runs/al/weights.safetensors", "runs/fv/weights.safetensors"),
        ("runs/fv/weights.safetensors", "runs/fv/measured.safetensors"),
        ("runs/fv/measured.safetensors", "runs/fv/weights.safetensors"),
        ("runs/fv/recipe.json", "runs/al/recipe.json"),
        ("runs/al/recipe.json", "runs/fv/recipe.json"),
        ("runs/al/state/step-00000012", "runs/half/state/step-00000009"),
        ("runs/fv/state/step-00000012", "runs/half/state/step-00000009"),
        ("runs/half/state/step-00000009/tensors.safetensors", "runs/fv/state/step-00000012/tensors.safetensors"),
    ]
    source, target = rng.choice(pairs)
    if (place / source).is_dir():
        shutil.rmtree(place / target)
        shutil.copytree(place / source, place / target)
    else:
        shutil.copy2(place / source, place / target)
    run = "/".join(target.split("/")[:2])
    commands = [[*TRAIN, "--out", run], [*ALIGN, "--out", "runs/al"], *map(list, reading(run))]
    return Given(rng.choice(commands[:1] if "state" in target else commands), f"{source} as {target}")
