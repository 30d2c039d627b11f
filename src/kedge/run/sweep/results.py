"""What a sweep leaves in its folder and on the terminal."""

from __future__ import annotations

import csv
import dataclasses
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedge.disk import read_object
from kedge.errors import InputError
from kedge.run.sweep.figure import By
from kedge.train.checkpoint import CheckpointError, save_json

SWEEP, TRIALS = "sweep.json", "trials.csv"
SHOWN = 5
"""Trials in the table on the terminal."""
FORM = {"sweep": dict, "best": (dict, type(None)), "counts": dict, "importance": dict, "chosen by": str}
"""What `sweep.json` may say, as far as anything is made of it."""
STATES = ("finished", "pruned", "failed", "begun")


@dataclass(frozen=True)
class Row:
    """A trial."""

    number: int
    state: str
    value: float | None
    told: Mapping[str, Any]
    seconds: float
    folder: Path
    why: str = ""


def ranked(rows: Sequence[Row], by: By) -> list[Row]:
    """Those that finished, the best first; of equals the earlier one."""
    sign = -1 if by.direction == "max" else 1
    return sorted((row for row in rows if row.value is not None), key=lambda row: (sign * (row.value or 0), row.number))


def counted(rows: Sequence[Row]) -> dict[str, int]:
    """How many ended how."""
    found = Counter(row.state for row in rows)
    return {state: found[state] for state in STATES if found[state]}


def keep(
    folder: Path, told: Mapping[str, Any], rows: Sequence[Row], by: By, importance: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Writes `trials.csv` and `sweep.json`, each whole or not at all; returns what the latter holds."""
    best = next(iter(ranked(rows, by)), None)
    found = {
        "sweep": dict(told),
        "chosen by": by.sentence,
        "counts": counted(rows),
        "best": best
        and {"trial": best.number, "value": best.value, "fields": dict(best.told), "folder": best.folder.name},
        "importance": dict(importance or {}),
    }
    scratch = folder / f".writing-{TRIALS}"
    try:
        with scratch.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(_table(rows, told["over"]))
        os.replace(scratch, folder / TRIALS)
    except OSError as error:
        raise CheckpointError(f"{folder / TRIALS} could not be written ({error.strerror or error})") from None
    save_json(folder / SWEEP, found)
    return found


def _table(rows: Sequence[Row], fields: Mapping[str, str]) -> Iterator[list[Any]]:
    yield ["trial", "state", "value", *fields, "seconds", "folder", "why"]
    for row in rows:
        value = "" if row.value is None else repr(row.value)
        cells = [row.told.get(name, "") for name in fields]
        yield [row.number, row.state, value, *cells, row.seconds, row.folder.name, row.why]


def read_sweep(folder: Path) -> dict[str, Any]:
    """What `sweep.json` holds; one line where it cannot be used."""
    found = read_object(folder / SWEEP, FORM, "; give another folder, or remove it to start over")
    if "sweep" not in found:
        raise InputError(f"{folder / SWEEP} cannot be used (it does not say what was searched); give another folder")
    return found


def read_rows(folder: Path) -> list[Row]:
    """What `trials.csv` holds."""
    path = folder / TRIALS
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        own = {"trial", "state", "value", "seconds", "folder", "why"}
        return [
            Row(
                int(row["trial"]),
                row["state"],
                float(row["value"]) if row["value"] else None,
                {name: _number(cell) for name, cell in row.items() if name not in own},
                float(row["seconds"]),
                folder / row["folder"],
                row["why"],
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); the command that made the sweep writes it again") from None


def _number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell


def lines(rows: Sequence[Row], by: By, importance: Mapping[str, float]) -> list[str]:
    """The table of the best, what the others came to, and what mattered."""
    best = ranked(rows, by)[:SHOWN]
    names = list(rows[0].told) if rows else []
    cells = [["trial", by.word, *names]]
    cells += [[str(row.number), f"{row.value:.4g}", *(_cell(row.told[name]) for name in names)] for row in best]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    counts = ", ".join(f"{count} {state}" for state, count in counted(rows).items())
    found = [*(table if best else []), f"{len(rows)} trials: {counts}"]
    found += [f"trial {row.number} failed: {row.why}" for row in rows if row.state == "failed"][:SHOWN]
    if importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in importance.items())
        found.append(f"what matters: {shares} (PED-ANOVA over the finished trials)")
    return [*found, f"chosen by {by.sentence}"]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def command(recipe: Any, name: str, flags: Any) -> str:
    """The `kedge train` that makes a run again: all that differs from the defaults."""
    given = [*_flags(recipe, type(recipe)()), *_flags(flags, type(flags)())]
    return shlex.join(["kedge", "train", name, *given])


def _flags(chosen: Any, default: Any) -> Iterator[str]:
    for of in dataclasses.fields(chosen):
        value, flag = getattr(chosen, of.name), of.name.replace("_", "-")
        if value == getattr(default, of.name):
            continue
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield f"--{flag}"
            yield from map(str, value if isinstance(value, tuple) else (value,))
