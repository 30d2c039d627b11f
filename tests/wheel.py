"""The package as a stranger gets it: built as a wheel and installed into a folder of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def installed(folder: Path) -> Path:
    """Builds the wheel and installs it, without what it needs, under `folder / "site"`; its commands are in `bin`."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    _ran(build)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    _ran([sys.executable, "-m", "pip", "install", *quiet, "--no-index", "--no-deps", "--target", str(site), str(wheel)])
    return site


def _ran(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
