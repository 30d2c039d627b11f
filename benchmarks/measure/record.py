"""How a result is kept: as data, with the commit, the machine and the versions that it was measured with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kedge.run.provenance import commit, machine, versions

RESULTS = Path(__file__).resolve().parents[1] / "results"
WATCHED = ("src", "benchmarks/kernel.py", "benchmarks/measure")
"""What a change in makes a result another one than its commit's."""


def record(name: str, figures: dict[str, Any]) -> Path:
    """Writes `benchmarks/results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    packages = ("kedge", "torch", "numpy", "diffusers")
    result = {"commit": commit(WATCHED), "machine": machine(), "versions": versions(packages), **figures}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
