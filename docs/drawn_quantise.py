"""Draws what a planner in few bits loses and gains, for the page of deployment."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from typing import Any

from drawn import DOCS, NOTHING, table, write
from sphinx.application import Sphinx

RESULT = DOCS.parent / "benchmarks" / "results" / "quantise.json"
WAYS = {"walk": "its own walks", "noised": "logged windows, noised outright"}
TIMED = {"float": "in floats", "simulated": "rounded, in floats", "integers": "int8, by torchao"}


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw() -> None:
    """The table of scores, the sentence of sizes and times, and what was measured."""
    if not RESULT.is_file():
        write("quantise", NOTHING)
        write("quantise_costs", NOTHING)
        return
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = [["32", "", f"{found['float']['mean']:.1f}", "", ""], *map(_row, found["rows"])]
    head = ["bits", "calibrated on", "latched score", "difference to floats", "estimates off by"]
    machine = found["machine"]
    about = (
        f"{found['recipe']} in {found['maze']}, {found['episodes']} episodes of each from the same starts, "
        f"{found['candidates']} candidates a plan, {found['samples']} samples to calibrate on; the interval is 95 %, "
        f"over starts. One thread of {machine['cpu']}; torch {found['versions']['torch']}, torchao "
        f"{found['versions']['torchao']}; commit `{found['commit'][:12]}`{found['commit'][40:]}.\n"
    )
    write("quantise", table(head, rows) + "\n" + about)
    write("quantise_costs", _costs(found))


def _row(row: Mapping[str, Any]) -> list[str]:
    off = f"{100 * row['off']:.1f} %"
    if "mean" not in row:
        return [str(row["bits"]), WAYS[row["calibration"]], "", "", off]
    low, high = row["interval"]
    lost = f"{row['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
    return [str(row["bits"]), WAYS[row["calibration"]], f"{row['mean']:.1f}", lost, off]


def _costs(found: Mapping[str, Any]) -> str:
    """What it buys and what it costs, in two sentences."""
    size, ms = found["bytes"], {name: statistics.median(row) for name, row in found["milliseconds"].items()}
    took = ", ".join(f"{ms[name]:.0f} ms {words}" for name, words in TIMED.items())
    best = next(row for row in found["rows"] if (row["calibration"], row["bits"]) == ("walk", 8))
    low, high = best["interval"]
    return (
        f"Eight bits cost this planner {best['difference']:+.1f} of score ({low:+.1f} to {high:+.1f}), and bring its "
        f"network from {size['float'] / 1e6:.2f} to {size['int8'] / 1e6:.2f} MB on disk. They buy no time on this "
        f"processor: a plan takes {took} (median of {found['rounds']} turns, time of the processor).\n"
    )
