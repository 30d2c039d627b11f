"""What commands ask of a run's folder before they load anything heavy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kedge.errors import InputError
from kedge.run.commands.command import environment


def recipe_of(folder: Path) -> dict[str, Any]:
    """The recipe of a run; one line where the folder is none."""
    path = folder / "recipe.json"
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give the folder of a run, such as runs/fv-large")
    if not path.is_file():
        raise InputError(f"{folder}: not a run's folder (it has no recipe.json); give one that `kedge train` has made")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error})") from None


def trained_steps(folder: Path) -> int | None:
    """How far a run has come, by the name of its newest checkpoint; None where there is none."""
    names = [path.name.removeprefix("step-") for path in (folder / "state").glob("step-*")]
    steps = [int(name) for name in names if name.isdigit()]
    return max(steps) if steps else None


def task_of(folder: Path, given: str | None) -> Any:
    """The environment to evaluate in: the one given, or the one that the run was trained for."""
    if given:
        return environment(given)
    from kedge.envs import Maze2D
    from kedge.run.recorded import recorded_layout

    layout = recorded_layout(recipe_of(folder))
    if layout is None:
        raise InputError(f"{folder} was trained on data of no known environment: say which with --env")
    return Maze2D(layout)


def evaluated(folder: Path, episodes: int, first_seed: int, after: Path | None = None) -> bool:
    """Whether an evaluation on just these starts is there, made after `after` was written."""
    path = folder / "evaluation.json"
    if not path.is_file() or (
        after is not None and after.is_file() and after.stat().st_mtime_ns > path.stat().st_mtime_ns
    ):
        return False
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return words.get("episodes") == episodes and (words.get("seeds") or [None])[0] == first_seed
