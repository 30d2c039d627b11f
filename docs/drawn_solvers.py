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
"""Solvers that a figure has lines for, and grids."""
FITTED, FEW_STEPS = {"tangent", "gits", "ays", "ld3", "s3"}, 8
"""Grids that are not by hand, and steps up to which they are fitted: beyond, only solvers of longer steps have them."""

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
    """Above, solvers, each on the best grid by hand; below, grids, each under the best solver: the least error with so
    many evaluations.
    """
    if not rows:
        write("solvers_errors", NOTHING)
        return
    hand = {name: [row for row in there if row["grid"] not in FITTED] for name, there in rows.items()}
    ways = {"solver": ("solvers, on their best grid by hand", hand), "grid": ("grids, under their best solver", rows)}

    def paint(figure: Figure, page: Page) -> None:
        axes = figure.subplots(2, len(PROBLEMS), sharex=True, squeeze=False)
        for line, (what, (title, found)) in zip(axes, ways.items(), strict=True):
            names = kept(found, what)
            for axis, name in zip(line, PROBLEMS, strict=True):
                drawn(axis, found.get(name, ()), what, names)
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


def least(rows: Rows, what: str, name: str) -> dict[int, float]:
    """The least error of a solver, or a grid, with so many evaluations."""
    mine = [row for row in rows if row[what] == name]
    spent = {budget for row in mine for budget in row["budgets"] if name not in FITTED or budget <= FEW_STEPS}
    return {budget: min(at(row, budget) for row in mine) for budget in sorted(spent)}


def kept(rows: Mapping[str, Rows], what: str) -> list[str]:
    """The names that are nearest, by their mean rank over problems and a few evaluations, and many for solvers; and
    DDIM.
    """
    names = list(dict.fromkeys(row[what] for there in rows.values() for row in there))
    ranks = dict.fromkeys(names, 0.0)
    for there in rows.values():
        found = {name: least(there, what, name) for name in names}
        for budget in BUDGETS if what == "solver" else [budget for budget in BUDGETS if budget <= FEW_STEPS]:
            spent = sorted((one[budget], name) for name, one in found.items() if budget in one)
            for place, (_, name) in enumerate(spent):
                ranks[name] += place - len(names)  # who cannot spend it is last
    best = sorted(names, key=lambda name: ranks[name])[:SHOWN]
    return best if "DDIM" not in names or "DDIM" in best else [*best[:-1], "DDIM"]


def drawn(axis: Axes, rows: Rows, what: str, names: Sequence[str]) -> None:
    """A line a name; the others behind them, in grey."""
    for name in dict.fromkeys(row[what] for row in rows):
        if name not in names and (found := least(rows, what, name)):
            axis.plot(list(found), list(found.values()), color="#888888", linewidth=0.7, alpha=0.7, label="others")
    for place, name in enumerate(names):
        if found := least(rows, what, name):
            style = {"color": COLOURS[place % 6], "marker": MARKERS[place % 6], "markersize": 3.5, "linewidth": 1.2}
            axis.plot(list(found), list(found.values()), label=name, **style)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks([3, 5, 10, 20, 50], ["3", "5", "10", "20", "50"])
    axis.minorticks_off()
