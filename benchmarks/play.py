"""Measures how soon the playground answers: from a pointer's move to the picture of a plan that knows of it, in a real
browser beside the server, on the same machine.

    python benchmarks/play.py RUN

RUN is the folder of a planner trained in the large maze. The goal is dragged about for some seconds: while time stands
still, with a wall drawn across a corridor, and while the ball runs. The result is in `benchmarks/results/play.json`.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from measure.record import record

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
Chromium: Any = importlib.import_module("run.chromium").Chromium

MODES = ("paused", "wall", "running")
MOVES, PAUSE, SETTLED = 240, 1 / 60, 1.5
WALL = ((2.35, 3.8), (3.0, 3.9), (3.28, 3.9))
"""A pointer's way, in metres: across the corridor above the middle."""


def main() -> None:
    """Runs it and prints what it found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("run", type=Path, help="the folder of a planner trained in the large maze")
    args = parser.parse_args()
    begun = os.getloadavg()[0]
    browser = Chromium()
    try:
        with served(args.run) as address:
            rows = [dragged(browser, address, mode) for mode in MODES]
    finally:
        browser.close()
    for row in rows:
        print(f"{row['mode']:8} {row['moves']} answers, median {row['median']:.0f} ms, 95 % within {row['p95']:.0f} ms")
    watched = ("src", "benchmarks/play.py", "tests/run/chromium.py")
    packages = ("kedge", "torch", "starlette", "uvicorn", "websockets")
    print(record("play", {"rows": rows, "load": round(begun, 1)}, watched, packages))


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The playground in a process of its own, as a user starts it; its address."""
    command = [sys.executable, "-m", "kedge", "play", str(run), "--no-browser", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = ""
        while not (found := re.search(r"http://\S+", said)):
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"kedge play ended: {said.strip()}")
            said += line
        yield found.group()
    finally:
        process.terminate()
        process.wait()


def dragged(browser: Any, address: str, mode: str) -> dict[str, Any]:
    """Milliseconds from each move to its plan, as the page itself takes them."""
    page = browser.page(address)
    page.until("window.kedge && kedge.ready && kedge.world.plan")
    scale = page.run("kedge.scale()")
    left, top = page.run("(b => [b.left, b.top])(document.getElementById('maze').getBoundingClientRect())")

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (y - scale[1]) * scale[0], top + (x - scale[1]) * scale[0]

    if mode != "running":
        page.run("document.getElementById('pause').click()")
    if mode == "wall":
        page.run("document.querySelector('[data-tool=wall]').click()")
        page.drag([at(*point) for point in WALL])
        page.run("document.querySelector('[data-tool=move]').click()")
    time.sleep(SETTLED)
    page.run("kedge.took.length = 0")
    around = [at(7 + 0.25 * math.sin(i / 9), 9.2 + 0.9 * math.cos(i / 14)) for i in range(MOVES)]
    page.drag([at(*page.run("kedge.world.goal")), *around], pause=PAUSE)
    time.sleep(SETTLED)
    took = np.array(page.run("kedge.took"), float)
    candidates = int(page.run("kedge.world.settings.candidates"))
    page.close()
    median, p95, most = (float(np.percentile(took, share)) for share in (50, 95, 100))
    return {"mode": mode, "moves": len(took), "median": median, "p95": p95, "most": most, "candidates": candidates}


if __name__ == "__main__":
    main()
