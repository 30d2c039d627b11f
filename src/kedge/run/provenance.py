"""Where a result comes from: the code, the machine, the versions, the time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGES = ("kedge", "torch", "numpy", "mujoco", "gymnasium")


def provenance(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """All of it, as it stands in a result's file."""
    return {"commit": commit(), "machine": machine(), "versions": versions(packages), "when": when()}


def commit(watched: Sequence[str] = ("src",)) -> str:
    """The commit that this code stands at, "and changes" where a watched file differs from it.

    Without a checkout around the package, or without git, the version that was installed.
    """
    root = checkout()
    found = _git(root, "rev-parse", "HEAD") if root else None
    if root is None or not found:
        return f"kedge {version('kedge')}, installed"
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *watched)
    return found + (" and changes" if changed else "")


def checkout(package: Path = PACKAGE) -> Path | None:
    """The checkout that the package lies in as `src/kedge`; another repository around an installed one is none."""
    root = package.parents[1]
    return root if package == root / "src" / "kedge" and (root / ".git").exists() else None


def _git(root: Path, *words: str) -> str | None:
    try:
        ran = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None


def machine() -> dict[str, Any]:
    """The processor, its cores, the threads that torch uses (None where it is not loaded), the system, Python."""
    torch = sys.modules.get("torch")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads() if torch is not None else None,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    names = Path("/proc/cpuinfo")
    if names.exists():
        for line in names.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The versions of those that are installed."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def when() -> str:
    """Now, in UTC to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
