"""Ways to break what a JSON file says, so that it is still JSON."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

from drilling.sources.broken import breaks

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 10**6, -(10**18), 10**30, 0.5, -0.5, 1e308, float("nan"), float("inf")),
    *("", "a", "FV", "ü漢", "x" * 3000, "../..", "nan", "\x00"),
    *([], [0], [[]], ["a", "b"], [1, 2, 3, 4, 5, 6, 7], {}, {"a": 1}, {"$tensor": "none"}, {"": {}}),
)


def breaks_json(rng: random.Random, path: Path) -> str:
    """One or several leaves become something else, go, or come; now and then the file is broken as a file."""
    if rng.random() < 0.25:
        return breaks(rng, path)
    if rng.random() < 0.08:
        deep = rng.choice((200, 5000, 200_000))
        path.write_text(rng.choice(("[" * deep + "]" * deep, '{"fields":' * deep + "0" + "}" * deep)))
        return f"{path.name} nested {deep} deep"
    tree = json.loads(path.read_text(encoding="utf-8"))
    said = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        tree, what = changed(rng, tree)
        said.append(what)
    path.write_text(json.dumps(tree, indent=1), encoding="utf-8")
    return f"{path.name}: {', '.join(said)}"


def changed(rng: random.Random, tree: Any) -> tuple[Any, str]:
    """A tree with one place changed."""
    if rng.random() < 0.04:
        odd = deepcopy(rng.choice(ODD))
        return odd, f"all is {json.dumps(odd)[:40]}"
    holders = [node for node in nodes(tree) if isinstance(node, dict | list) and node]
    if not holders:
        return tree, "nothing"
    holder = rng.choice(holders)
    key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    kind = rng.random()
    if kind < 0.2:
        del holder[key]
        return tree, f"without {key}"
    if kind < 0.25 and isinstance(holder, dict):
        holder["odd"] = deepcopy(rng.choice(ODD))
        return tree, "with odd"
    holder[key] = deepcopy(rng.choice(ODD))
    return tree, f"{key} is {json.dumps(holder[key])[:40]}"


def nodes(tree: Any) -> list[Any]:
    """All of a tree, itself first."""
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [tree, *(one for node in inner for one in nodes(node))]
