"""The reference has every public name: what a room exports, the page of the API shows."""

from __future__ import annotations

import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import kedge

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
DIRECTIVE = re.compile(r"^\.\. auto(\w+):: ([\w.]+)\n((?:   :.*\n)*)", re.M)


def public(module: ModuleType) -> list[str]:
    """What a module exports; of one that does not say, what it defines itself."""
    defined = (name for name, thing in vars(module).items() if inspect.getmodule(thing) is module)
    return list(getattr(module, "__all__", None) or (name for name in defined if not name.startswith("_")))


@cache
def shown() -> set[int]:
    """The identities of all that the page shows."""
    found: set[int] = set()
    for kind, place, options in DIRECTIVE.findall(PAGE.read_text(encoding="utf-8")):
        if kind != "module":
            found.add(id(resolved(place)))
            continue
        module = importlib.import_module(place)
        listed = re.search(r":members:(.*)", options)
        names = [name.strip() for name in listed[1].split(",")] if listed and listed[1].strip() else public(module)
        found |= {id(getattr(module, name)) for name in names if listed}
    return found


def resolved(place: str) -> Any:
    """What a dotted name stands for."""
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(module), name)


ROOMS = [name for name in kedge.__all__ if isinstance(getattr(kedge, name), ModuleType)]


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_exports_is_shown(room: str) -> None:
    module, there = getattr(kedge, room), shown()
    things = {name: getattr(module, name) for name in public(module)}
    assert things
    # A room within a room is shown by its own names.
    missing = [name for name, one in things.items() if not isinstance(one, ModuleType) and id(one) not in there]
    assert not missing


def test_what_the_package_itself_exports_is_shown() -> None:
    things = {name: getattr(kedge, name) for name in kedge.__all__ if name not in ROOMS}
    assert not [name for name, one in things.items() if id(one) not in shown()]
