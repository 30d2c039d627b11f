"""What was fitted once to a denoiser, on the disk: its tensors as safetensors, the rest as JSON, next to a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kedge.disk import read_object
from kedge.errors import InputError
from kedge.train import CheckpointError, load_weights, save_weights
from kedge.train.checkpoint import save_json

AGAIN = "; fit it again"


def store(folder: Path | str, name: str, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> list[Path]:
    """Writes `name.safetensors` and `name.json` into a folder, each whole or not at all."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    paths = [place / f"{name}.safetensors", place / f"{name}.json"]
    save_weights(paths[0], {key: value.detach() for key, value in tensors.items()})
    save_json(paths[1], dict(said))
    return paths


def stored(folder: Path | str, name: str, form: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `store` has written, the JSON of this form; one line where it is not there or cannot be used."""
    place = Path(folder)
    said = read_object(place / f"{name}.json", form, AGAIN)
    if missing := [key for key in form if key not in said]:
        raise InputError(f"{place / name}.json says nothing of {missing[0]}{AGAIN}")
    try:
        return load_weights(place / f"{name}.safetensors"), said
    except CheckpointError as error:
        raise InputError(f"{place / name}.safetensors cannot be used ({error}){AGAIN}") from None
