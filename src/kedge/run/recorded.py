"""What a run's recipe tells of where it learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedge.envs.layout import Layout


def recorded_layout(recipe: Mapping[str, Any], task: str | None = None) -> Layout | None:
    """The maze of a task, by its name or by the rows that its demonstrations have recorded; None where neither tells.

    Args:
        recipe: what a run's `recipe.json` holds.
        task: the task's name, where it is not the recipe's.
    """
    name = (task or str(recipe.get("task") or "")).removeprefix("maze2d-")
    if name in Layout.known():
        return Layout.of(name)
    for settings in _mappings(recipe):
        rows, goal, horizon = (settings.get(key) for key in ("maze", "goal", "horizon"))
        if isinstance(rows, list) and rows:
            layout = Layout.of("/".join(map(str, rows)), name=name or "custom")
            at = (float(goal[0]), float(goal[1])) if isinstance(goal, list) else None
            moved = at is not None and at != tuple(layout.goal.tolist())
            return Layout.of(layout, at if moved else None, horizon if isinstance(horizon, int) else None)
    return None


def _mappings(tree: Any) -> list[Mapping[str, Any]]:
    """A JSON tree's objects, the outer ones first."""
    if not isinstance(tree, Mapping):
        return []
    return [tree, *(inner for value in tree.values() for inner in _mappings(value))]
