"""What every room that writes files needs of the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kedge.errors import InputError

UNREADABLE = (OSError, ValueError, RecursionError)
"""What reading a JSON file may raise: the last where it is nested deeper than anything that was ever meant."""
LARGE = 2.0**63
"""No number that a run writes is as large."""


def to_disk(path: Path) -> None:
    """Forces a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path, remedy: str = "") -> Any:
    """What a JSON file holds; one line, ending with the remedy, where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read ({error}){remedy}") from None


def read_object(path: Path, form: Mapping[str, Any], remedy: str = "") -> dict[str, Any]:
    """What a JSON file holds, an object of a form; one line where it is none."""
    found = read_json(path, remedy)
    if odd := misfit(found, form):
        raise InputError(f"{path} cannot be used ({odd}){remedy}")
    return found


def misfit(tree: Any, form: Any, at: str = "") -> str:
    """Where a JSON tree is not of a form, "" if it is.

    A form is a type, or several; a mapping of forms by name, of which any may be absent; or a list of one form, which
    all entries have. `float` is any number that is finite; a boolean is no number.
    """
    if isinstance(form, Mapping):
        if not isinstance(tree, Mapping):
            return f"{at or 'all of it'} is not an object"
        inner = (misfit(tree[name], of, f"{at}.{name}".lstrip(".")) for name, of in form.items() if name in tree)
        return next(filter(None, inner), "")
    if isinstance(form, list):
        if not isinstance(tree, list):
            return f"{at} is not a list"
        return next(filter(None, (misfit(one, form[0], f"{at}[{i}]") for i, one in enumerate(tree))), "")
    return "" if any(map(_is(tree), form if isinstance(form, tuple) else (form,))) else f"{at} is {_brief(tree)}"


def _is(value: Any) -> Callable[[type], bool]:
    def has(kind: type) -> bool:
        if kind is float:
            return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGE
        if kind is int:
            return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGE
        return isinstance(value, kind)

    return has


def _brief(value: Any) -> str:
    said = json.dumps(value)
    return said if len(said) <= 40 else f"{said[:40]}..."
