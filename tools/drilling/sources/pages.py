"""What no page of ours would say, to `kedge play`."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

from drilling.healthy import RUN, Player
from drilling.hostile import FRAMES, SENSELESS, Raw
from drilling.meeting import CLOSE, Meeting, Visit
from drilling.sources.frames import broken, greeting
from drilling.sources.given import Given
from drilling.sources.trees import changed

WALL = {"id": "w", "kind": "wall", "box": [1.4, 0.6, 1.6, 1.4]}
WAY = {"id": "y", "kind": "way", "points": [[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]}
COME = {"id": "c", "kind": "come", "points": [[1.0, 3.0]]}
SETTINGS: dict[str, Any] = {
    "candidates": 4,
    "steps": 3,
    "solver": "ddim",
    "temperature": 0.5,
    "way": "guided",
    "strength": 1.0,
}
SENSIBLE: tuple[dict[str, Any], ...] = (
    {"do": "goal", "at": [3.0, 2.0], "n": 1},
    {"do": "ball", "at": [1.0, 3.0], "held": True, "n": 2},
    {"do": "draw", "mark": WALL, "n": 3},
    {"do": "draw", "mark": WAY, "n": 4},
    {"do": "erase", "id": "w", "n": 5},
    {"do": "set", "name": "candidates", "value": 5, "n": 6},
    {"do": "again", "n": 7},
    {"do": "restore", "settings": SETTINGS, "goal": [3.0, 2.0], "ball": [1.0, 1.0], "marks": [WALL, WAY, COME], "n": 8},
    {"do": "restore", "settings": SETTINGS | {"way": "stochastic", "solver": "heun"}, "marks": [WAY, COME], "n": 9},
)


def draw(rng: random.Random, place: Path) -> Given:
    """A playground, one to four strangers, and a tab beside them whose plans are its own."""
    visits = [visit(rng) for _ in range(rng.choice((1, 1, 2, 4)))]
    args = ["play", RUN, "--port", "0", "--no-browser"]
    return Given(args, "; ".join(one.what for one in visits), Meeting("/live", visits, Player))


def visit(rng: random.Random) -> Visit:
    """One stranger."""
    return rng.choice((_senseless, _altered, _altered, _altered, _frame, _broken, _large, greeting))(rng)


def _senseless(rng: random.Random) -> Visit:
    message, why = rng.choice(SENSELESS)
    data = message if isinstance(message, bytes) else message.encode()
    return Visit(f"senseless: {why}", Raw.framed(Raw.BINARY if isinstance(message, bytes) else Raw.TEXT, data))


def _altered(rng: random.Random) -> Visit:
    """Messages that were sensible, one after the other, some of them changed."""
    sent = []
    for _ in range(rng.choice((1, 2, 5))):
        words: Any = deepcopy(rng.choice(SENSIBLE))
        for _ in range(rng.choice((0, 1, 1, 3))):
            words, _what = changed(rng, words)
        sent.append(json.dumps(words))
    data = b"".join(Raw.framed(Raw.TEXT, words.encode()) for words in sent)
    return Visit(f"altered: {' '.join(sent)[:600]}", data)


def _frame(rng: random.Random) -> Visit:
    """A frame that is none."""
    name = rng.choice([name for name in FRAMES if name not in ("a text", "too much in many frames")])
    return Visit(name, FRAMES[name][0] if name != "too much in one frame" else Raw.framed(Raw.TEXT, b"x" * 70_000))


def _broken(rng: random.Random) -> Visit:
    """A frame broken as bytes."""
    words = json.dumps(rng.choice(SENSIBLE)).encode()
    return broken(rng, Raw.framed(rng.choice((Raw.TEXT, Raw.TEXT, Raw.PING, CLOSE)), words))


def _large(rng: random.Random) -> Visit:
    """Nested deeply, as long as may be, or very many."""
    mark = {"id": "z", "kind": "way", "points": [[1.0, 1.0]] * 5000}
    many = [{"id": str(i), "kind": "zone", "box": [2.9, 0.4, 3.1, 0.6]} for i in range(400)]
    text = rng.choice((
        "[" * 60_000, '{"do":' * 9_000, json.dumps({"do": "draw", "mark": mark})[:65_000],
        json.dumps({"do": "restore", "marks": many}), '{"do": "set", "name": "' + "x" * 60_000 + '", "value": 1}',
        '{"do": "goal", "at": [' + "9" * 50_000 + ", 1]}",
    ))  # fmt: skip
    return Visit(f"large: {text[:40]}", Raw.framed(Raw.TEXT, text.encode()))
