"""Draws how the kernel's measurements have changed: every stored version of `benchmarks/results/kernel.json`.

A Sphinx extension, as `drawn` is. The versions are those of the repository; where there is none, or only its last
commit, the page says that.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from drawn import DOCS, RESULT, table, write
from sphinx.application import Sphinx

WALKS = ("trig, DPM-Solver++(2M)", "eps, DDIM", "eps, DDPM (draws noise)")
"""Of which the microseconds a step are shown."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw() -> None:
    """A row for each version, the newest first."""
    rows = [row(*version) for version in versions()]
    if len(rows) < 2:
        write("history", "*A single version is stored here: the history is drawn from a clone with its commits.*\n")
        return
    write("history", table(["commit", *WALKS, "trainer against by hand", "measured"], rows))


def versions() -> list[tuple[str, dict[str, Any]]]:
    """The day and the result of each commit that stored one."""
    where = RESULT.relative_to(DOCS.parent).as_posix()
    found = []
    for line in git("log", "--format=%H %as", "--", where).splitlines():
        commit, day = line.split()
        try:
            found.append((day, json.loads(git("show", f"{commit}:{where}"))))
        except ValueError:  # a version that no one can read any more is no reason not to build
            continue
    return found


def row(day: str, result: dict[str, Any]) -> list[str]:
    """One version: medians, in microseconds a step, and the ratio of a training step."""
    steps = {one["walk"]: one["us_per_step"] for one in result["walk"] if one["library"] == "kedge"}
    walks = [f"{steps[name]:.1f}" if name in steps else "" for name in WALKS]
    where = f"{day}, {result['machine']['cpu']}, {result['machine']['cores']} cores"
    return [f"`{result['commit'][:10]}`", *walks, f"{result['training_step']['ratio']:.3f}", where]


def git(*args: str) -> str:
    """What git says; nothing where it cannot say anything."""
    try:
        done = subprocess.run(["git", *args], cwd=DOCS.parent, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
