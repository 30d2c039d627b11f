"""Draws what the page of steering shows, from `benchmarks/results/steer`: a file for each job of `make bench-steer`.

A Sphinx extension, as `drawn` is. What is missing is said where it would stand; a build without any result succeeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from drawn import DOCS, NOTHING, stored_results, table, write, write_origin
from sphinx.application import Sphinx

from kedge.run.statistics import interval

STORED = DOCS.parent / "benchmarks" / "results" / "steer"
WAYS = {
    "random": "random sampling",
    "push": "output perturbation",
    "rank": "post-hoc ranking",
    "rank-judged": "... the critic counting too",
    "biased": "biased initialisation",
    "guided": "guided diffusion",
    "stochastic": "stochastic sampling",
    "stochastic-2": "... each level twice",
    "stochastic-8": "... each level eight times",
    "stochastic-step": '... `by="step"`',
    "keep-out": "`with_guide(keep_out(box))`",
}


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw(stored: Path = STORED) -> None:
    """All of it."""
    results = stored_results(stored)
    write_origin("steer_origin", "bench-steer", results)
    for to in ("sketch", "point"):
        draw_plans(to, results.get(f"plans-{to}"), results.get("times"))
    draw_acted(results.get("acted-zone"))


def draw_plans(to: str, found: Mapping[str, Any] | None, times: Mapping[str, Any] | None) -> None:
    """A row a way: xi and crossings of the candidates and of the chosen one."""
    if found is None:
        write(f"steer_{to}", NOTHING)
        return
    head = [
        "way",
        "xi of candidates, m",
        "of the chosen one",
        "candidates across a wall, %",
        "chosen ones, %",
        "ms a plan",
    ]
    rows = []
    for name, title in WAYS.items():
        if name in found["ways"]:
            row = found["ways"][name]
            cells = [_mean(row["xi"], ".2f"), _mean(row["chosen"], ".2f")]
            cells += [_mean(row["crossing"], ".0f", 100), _mean(row["chosen_crossing"], ".0f", 100)]
            rows.append([title, *cells, _milliseconds(name, times)])
    write(f"steer_{to}", table(head, rows))


def draw_acted(found: Mapping[str, Any] | None) -> None:
    """A row a way: the score, and what it was steered out of."""
    if found is None:
        write("steer_acted", NOTHING)
        return
    rows = []
    for name, title in WAYS.items():
        if name in found["ways"]:
            row = found["ways"][name]
            met = row["outcome"]["feasibility"]["executed_prefixes_crossing"]
            rows.append(
                [title, _mean(row["zone"], ".1f", 100), _mean(row["outcome"]["latched"], ".0f"), f"{100 * met:.1f} %"]
            )
    write("steer_acted", table(["way", "time in the zone, %", "score", "executed parts that cross a wall"], rows))


def _mean(values: Sequence[float], form: str, times: float = 1.0) -> str:
    """A mean and its interval over cases."""
    found = interval(times * np.array(values, dtype=float))
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]"


def _milliseconds(name: str, times: Mapping[str, Any] | None) -> str:
    row = None if times is None else times["ways"].get(name)
    return "" if row is None else f"{statistics.median(row['milliseconds']):.0f}"
