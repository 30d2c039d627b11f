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
    name: str, figures: dict[str, Any], watched: Sequence[str] = WATCHED, packages: Sequence[str] = PACKAGES
) -> Path:
    """Writes `benchmarks/results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    result = {"commit": commit(watched), "machine": machine(), "versions": versions(packages), **figures}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
