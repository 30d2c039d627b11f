"""What a trial is, and what is said of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What came of a trial. `odd` is empty where all is as promised; `counts` are what is added up over trials."""

    odd: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    shown: str = ""

    def json(self) -> dict[str, Any]:
        """For the process that adds them up."""
        return {"odd": self.odd, "counts": dict(self.counts), "shown": self.shown}


@dataclass(frozen=True)
class Trial:
    """One thing that is tried: its name, by which it can be repeated alone, and what is done in a folder of its own."""

    name: str
    go: Callable[[Path], Verdict]

    @property
    def kind(self) -> str:
        """kill, disk or fuzz."""
        return self.name.partition(":")[0]


def sums(place: Path) -> dict[str, str]:
    """A checksum of every file below a folder, by its path."""
    files = sorted(path for path in place.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lost(before: Mapping[str, str], place: Path) -> list[str]:
    """What was there and is gone or another."""
    after = sums(place)
    return [name for name, own in before.items() if after.get(name) != own]


UNTIMED = ("seconds", "when", "commit", "machine", "versions", "planning")
"""What no two runs have in common: how long it took, when, where."""


def content(place: Path) -> dict[str, str]:
    """What a run, an evaluation, a data set holds, by file, but for times; leavings of killed processes as well."""
    return {name: _content(place / name) or own for name, own in sums(place).items()}


def _content(path: Path) -> str | None:
    if path.name == "state.json":
        told = json.loads(path.read_text(encoding="utf-8"))
        told.pop("digest")
        told["tree"].pop("seconds")
        return json.dumps(told, sort_keys=True)
    if path.name == "evaluation.json":
        told = json.loads(path.read_text(encoding="utf-8"))
        return json.dumps({key: value for key, value in told.items() if key not in UNTIMED}, sort_keys=True)
    if path.name == "metrics.csv":
        rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
        left_out = rows[0].index("seconds") if rows and "seconds" in rows[0] else -1
        return json.dumps([[cell for at, cell in enumerate(row) if at != left_out] for row in rows])
    return None


def apart(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The files in which two contents differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def untidy(err: str) -> str:
    """What is wrong with how a failure was said: it has to be one line, the last one, and no traceback."""
    lines = err.strip().splitlines()
    own = [line for line in lines if line.startswith("kedge: ")]
    if "Traceback (most recent call last)" in err:
        return "a traceback"
    if len(own) != 1 or lines[-1] != own[0]:
        return f"not one line, the last one, that says what is wrong, but {len(own)} of {len(lines)} lines"
    if not 20 <= len(own[0]) <= 1500 or len(lines) > 20:
        return f"a last line of {len(own[0])} characters, {len(lines)} lines in all"
    return ""
