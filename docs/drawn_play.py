"""Draws how soon the playground answers, for its page."""

from __future__ import annotations

import json
from typing import Any

from drawn import DOCS, NOTHING, table, write
from sphinx.application import Sphinx

RESULT = DOCS.parent / "benchmarks" / "results" / "play.json"
MODES = {"paused": "time stands still", "wall": "..., with a wall drawn", "running": "the ball runs"}


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw() -> None:
    """The table, and where it comes from."""
    if not RESULT.is_file():
        write("play", NOTHING)
        return
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    head = ["while the goal is dragged", "answers", "median", "95 % within"]
    rows = [
        [MODES[row["mode"]], str(row["moves"]), f"{row['median']:.0f} ms", f"{row['p95']:.0f} ms"]
        for row in found["rows"]
    ]
    machine, wanted = found["machine"], found["rows"][0]["candidates"]
    about = (
        f"Browser and server on the same {machine['cores']} cores ({machine['cpu']}; load {found['load']:.1f} before), "
        f"{wanted} candidates asked for; commit `{found['commit'][:12]}`{found['commit'][40:]}.\n"
    )
    write("play", table(head, rows) + "\n" + about)
