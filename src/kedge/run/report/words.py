"""Numbers and facts as words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def figure(value: Any, digits: int = 1) -> str:
    """A number for reading; a dash for what is not known."""
    if value is None or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}"


def percent(share: Any, digits: int = 1) -> str:
    """A share as per cent."""
    return "–" if share is None else f"{figure(100 * share, digits)}%"


def span(interval: Mapping[str, Any]) -> str:
    """An interval's two ends."""
    low, high = interval.get("low"), interval.get("high")
    return "" if low is None or high is None else f"{figure(low)} to {figure(high)}"


def duration(seconds: Any) -> str:
    """Seconds in the unit that suits them."""
    if seconds is None:
        return "–"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"


def flat(tree: Any, at: str = "") -> list[tuple[str, str]]:
    """The leaves of a JSON tree with the path to each; long lists are cut short."""
    if isinstance(tree, Mapping):
        return [leaf for key, value in tree.items() for leaf in flat(value, f"{at}.{key}" if at else str(key))]
    text = ", ".join(map(str, tree)) if isinstance(tree, list) else ("yes" if tree is True else str(tree))
    return [(at, text if len(text) < 300 else text[:300] + " …")]


def task_title(task: str) -> str:
    """`maze2d-large` as `Maze2D large`."""
    return task.replace("maze2d-", "Maze2D ", 1) if task.startswith("maze2d-") else task
