"""What was fitted once to a denoiser, on the disk: its tensors as safetensors, the rest as JSON, next to a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kedge.disk import read_object
from kedge.errors import InputError


def store(folder: Path | str, name: str, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> None:
    """Writes `name.safetensors` and `name.json` into a folder, each whole or not at all."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    half = {place / f"{name}.{end}": place / f".{name}.{end}.half" for end in ("safetensors", "json")}
    ends = list(half.values())
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, ends[0])
    ends[1].write_text(json.dumps(dict(said), indent=2) + "\n", encoding="utf-8")
    for whole, written in half.items():
        written.replace(whole)


def stored(folder: Path | str, name: str, form: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `store` has written, the JSON of this form; one line where it is not there or cannot be used."""
    place = Path(folder)
    said = read_object(place / f"{name}.json", form, ": fit it again")
    if missing := [key for key in form if key not in said]:
        raise InputError(f"{place / name}.json says nothing of {missing[0]}: fit it again")
    try:
        return load_file(place / f"{name}.safetensors"), said
    except (OSError, SafetensorError) as error:
        raise InputError(f"{place / name}.safetensors cannot be read ({error}): fit it again") from None
