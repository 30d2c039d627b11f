"""Draws solvers on grids, from `benchmarks/results/solvers`: a file for each job of `make bench-solvers`.

A Sphinx extension, as `drawn` is. What is missing is said where it would stand; a build without any result succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from drawn import COLOURS, DOCS, MARKERS, NOTHING, Page, figure_of, plain, stored_results, table, write, write_origin
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sphinx.application import Sphinx

from kedge.run.statistics import interval, paired

STORED = DOCS.parent / "benchmarks" / "results" / "solvers"
PROBLEMS = {"plane": "eight modes in a plane", "low-rank": "64 dimensions, low rank", "planner": "a planner's plans"}
BUDGETS = (3, 5, 8, 15)
FEW = 5
"""Evaluations of the table of all pairs."""
SHOWN = 6
"""Solvers that a figure has lines for: those that are nearest at 5 evaluations; and grids likewise."""

Rows = Sequence[Mapping[str, Any]]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw(stored: Path = STORED) -> None:
    """All of it."""
    results = stored_results(stored)
    whole = {name: found for name, found in results.items() if found["settings"]["scale"] == "full"}
    write_origin("solvers_origin", "bench-solvers", whole)
    rows = {name: whole[name]["rows"] for name in PROBLEMS if name in whole}
    write("solvers_best", nearest(rows) if rows else NOTHING)
    write("solvers_scores", scored(whole) or NOTHING)
    write("solvers_pairs", pairs(rows["planner"]) if "planner" in rows else NOTHING)
    write("solvers_orders", orders(whole["orders"]["rows"]) if "orders" in whole else NOTHING)
    draw_errors(rows)


def at(row: Mapping[str, Any], budget: int) -> float:
    """A pair's error with so many evaluations; infinite where its steps cannot spend just these."""
    return row["errors"][row["budgets"].index(budget)] if budget in row["budgets"] else float("inf")


def orders(rows: Rows) -> str:
    """What each claims, and what is measured between the two finest grids."""
    lines = [[row["solver"], str(row["order"]), f"{row['slope']:.2f}"] for row in rows]
    return table(["solver", "order", "measured"], lines)


def nearest(rows: Mapping[str, Rows]) -> str:
    """The pair that comes nearest, by evaluations and problem."""
    lines = []
    for budget in BUDGETS:
        found = {name: min(there, key=lambda row: at(row, budget)) for name, there in rows.items()}
        cells = [f"{row['solver']} on {row['grid']}: {at(row, budget):.2g}" for row in found.values()]
        lines.append([str(budget), *cells])
    return table(["evaluations", *(PROBLEMS[name] for name in rows)], lines)


def scored(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What the nearest pair scores in the maze, and the recipe's own with as many evaluations."""
    lines = []
    for budget in BUDGETS:
        if (found := results.get(f"score-{budget}")) is None:
            continue
        mine, own = (np.asarray(found["rows"][name]["latched"]) for name in ("nearest", "own"))
        gain, values = paired([mine], [own]).difference, [interval(row) for row in (mine, own)]
        cells = [f"{value.mean:.1f} [{value.low:.1f}, {value.high:.1f}]" for value in values]
        pair = found["pair"]
        more = f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"
        lines.append([str(budget), f"{pair['solver']} on {pair['grid']}", *cells, more])
    head = ["evaluations", "nearest", "its score", "FV's own: DPM-Solver++ 2M on rho 3", "difference"]
    return table(head, lines) if lines else ""


def pairs(rows: Rows) -> str:
    """All pairs at five evaluations, on the planner."""
    solvers, grids = (list(dict.fromkeys(row[what] for row in rows)) for what in ("solver", "grid"))
    found = {(row["solver"], row["grid"]): at(row, FEW) for row in rows}
    lines = [
        [name, *(f"{e:.3f}" if (e := found.get((name, grid), np.inf)) < np.inf else "" for grid in grids)]
        for name in solvers
        if any(found.get((name, grid), np.inf) < np.inf for grid in grids)
    ]
    return table(["", *grids], lines)


def draw_errors(rows: Mapping[str, Rows]) -> None:
    """Above, solvers, each on the grid that suits it best at five evaluations; below, grids, under the solver that is
    best there.
    """
    if not rows:
        write("solvers_errors", NOTHING)
        return
    ways = {"solver": "solvers, each on its best grid", "grid": "grids, each under its best solver"}
    chosen = {what: kept(rows, what) for what in ways}

    def paint(figure: Figure, page: Page) -> None:
        axes = figure.subplots(2, len(PROBLEMS), sharex=True, squeeze=False)
        for line, (what, title) in zip(axes, ways.items(), strict=True):
            for axis, name in zip(line, PROBLEMS, strict=True):
                drawn(axis, rows.get(name, ()), what, chosen[what])
                axis.set_title(PROBLEMS[name], color=page.ink, fontsize=10)
                plain(axis, page, grid="both")
            line[0].set_ylabel(f"error\n{title}", color=page.ink, fontsize=9)
            lines = {str(one.get_label()): one for axis in line for one in axis.get_lines()}
            line[-1].legend(
                list(lines.values()),
                list(lines),
                loc="center left",
                bbox_to_anchor=(1.02, 0.5),
                frameon=False,
                fontsize=8,
                labelcolor=page.ink,
            )
        for axis in axes[-1]:
            axis.set_xlabel("network evaluations")

    alt = "Six panels: errors fall with evaluations; two rows, of solvers and of grids; three columns, of problems."
    figure_of("solvers_errors", (10.5, 6.0), paint, alt)


def kept(rows: Mapping[str, Rows], what: str) -> list[str]:
    """The names that are nearest at five evaluations, by their mean rank over problems; and DDIM, which all know."""
    names = list(dict.fromkeys(row[what] for there in rows.values() for row in there))
    ranks = dict.fromkeys(names, 0.0)
    for there in rows.values():
        order = sorted(names, key=lambda name: min((at(r, FEW) for r in there if r[what] == name), default=np.inf))
        for place, name in enumerate(order):
            ranks[name] += place
    best = sorted(names, key=lambda name: ranks[name])[:SHOWN]
    return best if "DDIM" not in names or "DDIM" in best else [*best[:-1], "DDIM"]


def drawn(axis: Axes, rows: Rows, what: str, names: Sequence[str]) -> None:
    """A line a name: its pair with the smallest error at five evaluations."""
    for place, name in enumerate(names):
        mine = [row for row in rows if row[what] == name and row["budgets"]]
        if not mine:
            continue
        row = min(mine, key=lambda one: at(one, FEW))
        style = {"color": COLOURS[place % 6], "marker": MARKERS[place % 6], "markersize": 3.5, "linewidth": 1.2}
        axis.plot(row["budgets"], row["errors"], label=name, **style)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks([3, 5, 10, 20, 50], ["3", "5", "10", "20", "50"])
    axis.minorticks_off()
