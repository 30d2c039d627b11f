"""What a run's recipe tells of where it learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kedge.data
from kedge.data import Trajectories
from kedge.envs.demonstrations import demonstrate, settings
from kedge.envs.layout import Layout
from kedge.errors import InputError

SOURCE = "source.json"
"""Says where the data of a run lie that were no demonstrations."""


def recorded_layout(recipe: Mapping[str, Any], task: str | None = None) -> Layout | None:
    """The maze of a task, by its name or by the rows that its demonstrations have recorded; None where neither tells.

    Args:
        recipe: what a run's `recipe.json` holds.
        task: the task's name, where it is not the recipe's.
    """
    called = (task or str(recipe.get("task") or "")).removeprefix("maze2d-")
    name = called.partition("-goal-")[0].partition("-steps-")[0]  # such endings follow from what was moved
    if called in Layout.known():
        return Layout.of(called)
    for found in _mappings(recipe):
        rows, goal, horizon = (found.get(key) for key in ("maze", "goal", "horizon"))
        if isinstance(rows, list) and rows:
            layout = Layout.of("/".join(map(str, rows)), name=name or "custom")
            if name in Layout.known() and layout.rows == Layout.of(name).rows:
                layout = Layout.of(name)
            at = (float(goal[0]), float(goal[1])) if isinstance(goal, list) else None
            moved = at is not None and at != tuple(layout.goal.tolist())
            return Layout.of(layout, at if moved else None, horizon if isinstance(horizon, int) else None)
    return None


def recorded_logs(
    folder: Path, recipe: Mapping[str, Any], progress: Callable[[int, int], None] | None = None
) -> Trajectories | str:
    """What a run learned from, to the bit; a sentence where it cannot be had.

    Demonstrations are taken from `data` in the run's folder or from the cache, and made again if they are in neither;
    other data is opened where it lay. Whatever is found must have the digest that the run has noted.
    """
    data = recipe.get("data")
    data = data if isinstance(data, Mapping) else {}
    provenance = data.get("provenance")
    made = provenance.get("settings") if isinstance(provenance, Mapping) else None
    try:
        logs = _demonstrated(folder, recipe, made, progress) if isinstance(made, Mapping) else _lying(folder)
    except InputError as error:
        return str(error)
    if logs is None:
        return "it is not known where the data of this run lie"
    if logs.digest != data.get("digest"):
        return "the data that the run learned from have changed since"
    return logs


def _demonstrated(
    folder: Path, recipe: Mapping[str, Any], made: Mapping[str, Any], progress: Callable[[int, int], None] | None
) -> Trajectories | None:
    """Demonstrations, if this version of kedge would make them by the same settings."""
    layout = recorded_layout(recipe)
    steps, seed = made.get("steps"), made.get("seed")
    if layout is None or not isinstance(steps, int) or not isinstance(seed, int):
        return None
    if settings(layout, steps, seed) != dict(made):
        return None
    own = folder / "data"
    return demonstrate(layout, steps, seed, own if own.is_dir() else None, progress)


def _lying(folder: Path) -> Trajectories | None:
    """The data whose place was noted when the run began."""
    path = folder / SOURCE
    if not path.is_file():
        return None
    try:
        return kedge.data.open(str(json.loads(path.read_text(encoding="utf-8"))["data"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({error})") from None


def _mappings(tree: Any) -> list[Mapping[str, Any]]:
    """A JSON tree's objects, the outer ones first."""
    if not isinstance(tree, Mapping):
        return []
    return [tree, *(inner for value in tree.values() for inner in _mappings(value))]
