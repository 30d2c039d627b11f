"""What a page may say: JSON objects with a word under "do". Whatever cannot be obeyed is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from kedge.errors import InputError
from kedge.run.play.scene import Mark, point
from kedge.run.play.world import World

LARGEST = 64 * 1024
"""Bytes of a message."""

Words = dict[str, Any]


def read(message: str | bytes) -> Words:
    """A message as an object; one line where it is none."""
    if isinstance(message, bytes):
        raise InputError("a message is text: a JSON object with a word under 'do'")
    try:
        words = json.loads(message)
    except (ValueError, RecursionError):
        raise InputError("a message is a JSON object, and this cannot be read as JSON") from None
    if not isinstance(words, dict) or not isinstance(words.get("do"), str):
        raise InputError("a message is a JSON object with a word under 'do'")
    if words["do"] not in COMMANDS:
        raise InputError(f"there is no command {words['do'][:32]!r}; known are {', '.join(COMMANDS)}")
    n = words.get("n", 0)
    if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < 2**53:
        raise InputError("n counts a page's messages: a whole number from 0 on")
    return words


def obey(world: World, words: Words) -> list[str]:
    """Carries a command out in a world. What of it could not be, is told in lines; the rest is done."""
    return COMMANDS[words["do"]](world, words) or []


def _goal(world: World, words: Words) -> None:
    world.aim(point(words.get("at"), "the goal"))


def _ball(world: World, words: Words) -> None:
    world.held = words.get("held") is True
    world.put(point(words.get("at"), "the ball's place"))


def _drop(world: World, words: Words) -> None:
    world.held = False


def _draw(world: World, words: Words) -> None:
    world.draw(Mark.of(words.get("mark")))


def _erase(world: World, words: Words) -> None:
    world.erase(words.get("id"))


def _clear(world: World, words: Words) -> None:
    world.clear()


def _set(world: World, words: Words) -> None:
    world.settings = world.settings.changed(words.get("name"), words.get("value"))


def _again(world: World, words: Words) -> None:
    world.again()


def _restore(world: World, words: Words) -> list[str]:
    """A scene that a page has kept: as much of it as fits this maze."""
    steps: list[Words] = [{"do": "clear"}]
    kept = words.get("settings")
    marks = words.get("marks")
    steps += [
        {"do": "set", "name": key, "value": value} for key, value in (kept if isinstance(kept, dict) else {}).items()
    ]
    drawn = [{"do": "draw", "mark": mark} for mark in (marks if isinstance(marks, list) else [])]
    gaps = [step for step in drawn if isinstance(step["mark"], dict) and step["mark"].get("kind") == "gap"]
    steps += gaps  # where goal and ball may be
    steps += [{"do": "goal", "at": words["goal"]}] if "goal" in words else []
    steps += [{"do": "ball", "at": words["ball"]}] if "ball" in words else []
    steps += [step for step in drawn if step not in gaps]
    refused = []
    for step in steps:
        try:
            obey(world, step)
        except InputError as error:
            refused.append(str(error))
    return refused


COMMANDS: dict[str, Callable[[World, Words], list[str] | None]] = {
    "goal": _goal,
    "ball": _ball,
    "drop": _drop,
    "draw": _draw,
    "erase": _erase,
    "clear": _clear,
    "set": _set,
    "again": _again,
    "restore": _restore,
}
"""By name. `set` of speed and of paused, and `drop`, change no plan."""


def changes_plans(words: Words) -> bool:
    """Whether plans have to be made anew after this command."""
    return words["do"] != "drop" and not (words["do"] == "set" and words.get("name") in ("speed", "paused"))
