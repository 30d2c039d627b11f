"""How a result is kept: as data, with the commit, the machine and the versions that it was measured with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def record(name: str, figures: dict[str, Any]) -> Path:
    """Writes `benchmarks/results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    result = {"commit": _commit(), "machine": _machine(), "versions": _versions(), **figures}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    dirty = git(
        "status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks/kernel.py", "benchmarks/measure"
    )
    return git("rev-parse", "HEAD") + (" and changes" if dirty else "")


def _machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in ("kedge", "torch", "numpy", "diffusers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
