"""How a result is kept: as data, with the commit, the machine and the versions that it was measured with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kedge.run.provenance import commit, machine, versions

RESULTS = Path(__file__).resolve().parents[1] / "results"
WATCHED = ("src", "benchmarks/kernel.py", "benchmarks/measure")
"""What a change in makes a result another one than its commit's."""


PACKAGES = ("kedge", "torch", "numpy", "diffusers")


def record(
    name: str,
    figures: dict[str, Any],
    watched: Sequence[str] = WATCHED,
    packages: Sequence[str] = PACKAGES,
    part: str | None = None,
) -> Path:
    """Writes `benchmarks/results/<name>.json`; a part of it into what is stored, with where that part comes from."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    origin = {"commit": commit(watched), "machine": machine(), "versions": versions(packages)}
    if part is None:
        result = {**origin, **figures}
    else:
        stored = json.loads(path.read_text(encoding="utf-8"))
        result = {**stored, **figures, "parts": {**stored.get("parts", {}), part: origin}}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
