"""Draws what the page of serving shows, from `benchmarks/results/serve.json`, which `benchmarks/serve.py` writes.

A Sphinx extension, as `drawn` is. What is missing is said where it would stand; a build without any result succeeds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drawn import DOCS, NOTHING, table, write
from sphinx.application import Sphinx

STORED = DOCS.parent / "benchmarks" / "results" / "serve.json"
HEAD = [
    "agent", "batch", "actions a second", "p50, p95, p99 of all, ms", "... of a network's, ms", "done together",
    "answers", "lost, mixed up, wrong",
]  # fmt: skip


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw(stored: Path = STORED) -> None:
    """The table, and where it comes from."""
    if not stored.is_file():
        write("serve_load", NOTHING)
        write("serve_origin", "")
        return
    result = json.loads(stored.read_text(encoding="utf-8"))
    write("serve_load", table(HEAD, [line(row) for row in result["serving"]]))
    machine, commit = result["machine"], result["commit"]
    clients = max(row["clients"] for row in result["serving"])
    write(
        "serve_origin",
        f"{clients} clients, by `make bench-serve` at commit `{commit[:10]}`{commit[40:]}, on {machine['cores']} "
        f"cores ({machine['cpu']}), one thread a network; the clients and other work had the same cores.\n",
    )


def line(row: dict[str, Any]) -> list[str]:
    """One arm."""
    return [
        row["agent"],
        str(row["batch"]),
        f"{row['rate']:.0f}",
        ", ".join(f"{row[f'p{q}']:.0f}" for q in (50, 95, 99)),
        ", ".join(f"{row[f'network_p{q}']:.0f}" for q in (50, 95, 99)),
        f"{row['mean_batch']:.1f}",
        str(row["answers"]),
        f"{row['lost']}, {row['mixed_up']}, {row['wrong']}",
    ]
