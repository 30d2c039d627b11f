"""What the tests of runs share: a run in another process that is stopped at a step, and its table."""

from __future__ import annotations

import csv
import subprocess
import time
from pathlib import Path

from forked import Forked


def rows(run: Path) -> list[dict[str, str]]:
    """The table, but for the time."""
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def interrupt_at(process: subprocess.Popen[str] | Forked, run: Path, step: int, number: int) -> tuple[int, str]:
    """Sends the signal once the table shows that `step` was passed; returns the exit code and what was said."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        lines = (run / "metrics.csv").read_text().splitlines() if (run / "metrics.csv").exists() else []
        if len(lines) > 1 and int(lines[-1].partition(",")[0] or 0) >= step:
            break
        time.sleep(0.002)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode is not None
    return process.returncode, said
