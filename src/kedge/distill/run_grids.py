"""Fitted grids beside the weights of the run that they were fitted to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kedge.distill.stored import AGAIN, store, stored
from kedge.errors import InputError
from kedge.walk.grids import Fitted

FOLDER = "grids"
FORM = {
    "method": str, "steps": int, "solver": str, "seed": int, "samples": int, "agent": str, "low": float, "high": float,
    "scales": [float], "told": [float], "errors": dict,
}  # fmt: skip
"""What the JSON file says: how the grid was found, and how far its walks end from long ones, beside other grids."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def save_grid(run: Path, name: str, grid: Fitted, about: Mapping[str, Any]) -> list[Path]:
    """Writes `grids/NAME.safetensors`, the noise scales in float64, and `grids/NAME.json`, which a person can read."""
    tensors = {"scales": torch.tensor(grid.scales, dtype=torch.float64)}
    if grid.told:
        tensors["told"] = torch.tensor(grid.told, dtype=torch.float64)
    about = {**about, "scales": list(grid.scales), "told": list(grid.told)}
    return store(_checked(run, name).parent, name, tensors, about)


def load_grid(run: Path, name: str) -> tuple[Fitted, dict[str, Any]]:
    """The grid of that name, and what is known of it; one line where there is none, or none that can be used."""
    stem = _checked(run, name)
    if name not in grids_of(run):
        known = ", ".join(grids_of(run))
        raise InputError(f"{run} has no grid {name!r}; it has {known or 'none'}: kedge grid fit {run} makes one")
    tensors, about = stored(stem.parent, name, FORM)
    try:
        scales, told = (tuple(tensors[key].tolist()) if key in tensors else () for key in ("scales", "told"))
        return Fitted(scales, told), about
    except (TypeError, ValueError) as error:
        raise InputError(f"{stem}.safetensors cannot be used ({error}){AGAIN}") from None


def grids_of(run: Path) -> list[str]:
    """The names of the grids that were fitted to a run."""
    return sorted(path.stem for path in (run / FOLDER).glob("*.json") if _NAME.fullmatch(path.stem))


def _checked(run: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise InputError(f"a grid's name has letters, digits, -, _ and dots, and begins with a letter, not {name!r}")
    return run / FOLDER / name
