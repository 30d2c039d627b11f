"""Draws the counts of the drill from `benchmarks/results/drill.json`, for the page of reliability."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drawn import table, write
from sphinx.application import Sphinx

RESULT = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "drill.json"
KINDS = {"kill": "kills", "disk": "full disks", "fuzz": "broken inputs"}
COUNTS = {
    "kill": ("kills", "again", "missed"),
    "disk": ("full", "went on", "enough"),
    "fuzz": ("refused", "succeeded"),
}
WORDS = {
    "kills": "kills that met the run", "again": "of these of a run that had been killed before",
    "missed": "kills that came after its end", "full": "ended for want of room", "enough": "had enough",
    "went on": "went on without a checkpoint and said so",
    "refused": "refused in one line", "succeeded": "succeeded all the same",
}  # fmt: skip


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw_drill())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw_drill() -> None:
    """A row for each kind of trial; where each was made."""
    if not RESULT.is_file():
        write("drill", "*Not measured yet: `make drill` does.*\n")
        return
    found: Mapping[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = [_row(name, found[kind], COUNTS[kind]) for kind, name in KINDS.items() if kind in found]
    where = [_where(name, found[kind]) for kind, name in KINDS.items() if kind in found]
    write("drill", table(["", "trials", "of which", "not as promised"], rows) + "\n" + "\n".join(where) + "\n")


def _row(name: str, one: Mapping[str, Any], shown: tuple[str, ...]) -> list[str]:
    counts = one["counts"]
    said = ", ".join(f"{counts[key]:,} {WORDS[key]}" for key in shown if key in counts)
    return [name, f"{counts['trials']:,}", said, str(len(one["odd"]))]


def _where(name: str, one: Mapping[str, Any]) -> str:
    machine, again = one["machine"], one.get("again", {}).get("trials", ())
    said = f"{name.capitalize()}: commit `{one['commit'][:12]}`, {machine['cpu']}, {machine['cores']} cores"
    said += _parts(one["counts"])
    mended = f"; {len(again)} that were not as promised have been tried again since what they found was mended"
    return f"{said}{mended if again else ''}.\n"


def _parts(counts: Mapping[str, int]) -> str:
    """How many trials fell to each command, or to each source of inputs."""
    parts: dict[str, int] = {}
    for key, count in counts.items():
        part, divided, _ = key.partition(": ")
        if divided:
            parts[part] = parts.get(part, 0) + count
    return "; " + ", ".join(f"{part} {count:,}" for part, count in parts.items()) if parts else ""
