"""Draws what a planner costs in other runtimes, for the page of deployment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from drawn import DOCS, NOTHING, table, write
from sphinx.application import Sphinx

RESULT = DOCS.parent / "benchmarks" / "results" / "export.json"
GRAPHS = {"plan": "the whole walk", "denoiser": "the denoiser alone"}
RUNTIMES = {"eager": "torch, eager", "compiled": "torch, compiled", "onnxruntime": "onnxruntime"}


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw() -> None:
    """The table, and what was measured."""
    if not RESULT.is_file():
        write("export", NOTHING)
        return
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = [_row(row) for row in found["rows"]]
    head = ["", "plans at once", "", "median", "5 to 95 % of turns", "of eager", "largest difference"]
    fields, machine = found["fields"], found["machine"]
    about = (
        f"{found['recipe']} ({fields['net']}, width {fields['width']}, {fields['horizon']} points, "
        f"{fields['evaluations']} evaluations) on one thread of {machine['cpu']}, {machine['cores']} cores; "
        f"torch {found['versions']['torch']}, onnxruntime {found['versions']['onnxruntime']}; {found['rounds']} turns, "
        f"beside other work (load {found['load']:.0f}); "
        f"commit `{found['commit'][:12]}`{found['commit'][40:]}.\n"
    )
    write("export", table(head, rows) + "\n" + about)


def _row(row: Mapping[str, Any]) -> list[str]:
    ms, ratio = f"{row['ms']:.2f} ms", f"{row['ratio']:.2f}"
    spread = f"{row['p5']:.2f} to {row['p95']:.2f}"
    off = f"{row['difference']:.1g}"
    return [GRAPHS[row["graph"]], str(row["batch"]), RUNTIMES[row["runtime"]], ms, spread, ratio, off]
