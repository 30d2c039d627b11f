"""Draws the tables of all planners, from `benchmarks/results/planners`: a file for each job of `make bench-planners`.

A Sphinx extension, as `drawn` is. What is missing is said where it would stand; a build without any result succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from drawn import DOCS, NOTHING, stored_results, table, write, write_origin
from sphinx.application import Sphinx

from kedge.run.statistics import interval

STORED = DOCS.parent / "benchmarks" / "results" / "planners"
CHANGES = {
    "plain": "as it was",
    "walls": "an unseen wall",
    "obstacle": "a moving obstacle",
    "zone": "a zone",
    "dynamics": "another body",
}
ARMS = {
    "astar": "A\\* and P-D control, with the map of now",
    "fv": "FV",
    "fv-untold": "... told of nothing",
    "search": "... by tree search, `searched()`",
    "guided": "... pulled, `with_guide(keep_out(...))`",
    "dpcc": "... within constraints, `within(...)`",
    "dpcc-gradient": '... `within(..., how="gradient")`',
    "dpcc-late": "... `within(..., below=0.0)`: post-processing",
    "physdiff": "... tried in the simulator, `simulated(maze)`",
    "dip": "... its noise optimised, `optimised(...)`",
    "dv": "DV, shortened",
    "diffuser": "Diffuser, shortened",
    "cdiffuser": "CDiffuser, shortened",
    "decision-diffuser": "Decision Diffuser",
    "hierarchical": "Hierarchical Diffuser",
    "diffusion-drive": "DiffusionDrive",
    "closd": "CLoSD",
    "mtdiff": "MTDiff, told nothing",
    "ditree": "DiTree, with the map and the physics of now",
    "navdp": "NavDP, with the map near it",
    "td3-bc": "TD3+BC",
    "iql": "IQL",
    "dwm": "DWM",
    "policy-guided-diffusion": "Policy-guided diffusion",
    "cloned": "behaviour cloning",
}
"""Those that have a name of their own; another arm goes by its job's."""
BROKEN = ("obstacle", "zone")

Found = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw(stored: Path = STORED) -> None:
    """All of it."""
    results = stored_results(stored)
    write_origin("planners_origin", "bench-planners", results)
    found = of_arms(results)
    write("planners_scores", rows(found, list(CHANGES), score) if found else NOTHING)
    write("planners_solved", rows(found, list(CHANGES), solved) if found else NOTHING)
    write("planners_broken", rows(found, list(BROKEN), broken) if found else NOTHING)
    write("planners_times", times(found) if found else NOTHING)
    draw_fuzz(results.get("fuzz"))


def of_arms(results: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The results of each arm in each change, a training seed after the other."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results.values():
        settings = result["settings"]
        if settings["kind"] == "planned" and settings["scale"] == "full":
            found.setdefault((settings["arm"], settings["change"]), []).append(result)
    return found


def named(found: Found) -> list[str]:
    """The arms that were measured, in the table's order; those it has no name for last."""
    there = list(dict.fromkeys(arm for arm, _ in found))
    return [arm for arm in ARMS if arm in there] + [arm for arm in there if arm not in ARMS]


def rows(found: Found, changes: Sequence[str], cell: Any) -> str:
    """A row an arm, a column a change."""
    lines = [
        [ARMS.get(arm, arm), *(cell(found[arm, change]) if (arm, change) in found else "" for change in changes)]
        for arm in named(found)
        if any((arm, change) in found for change in changes)
    ]
    return table(["planner", *(CHANGES[change] for change in changes)], lines)


def score(results: Sequence[Mapping[str, Any]]) -> str:
    """The mean over training seeds and starts, with its interval."""
    return over([result["score"] for result in results], ".0f")


def solved(results: Sequence[Mapping[str, Any]]) -> str:
    """Per cent of the episodes."""
    return over([[100.0 * one for one in result["solved"]] for result in results], ".0f")


def broken(results: Sequence[Mapping[str, Any]]) -> str:
    """Per cent of the steps, then of the episodes."""
    shares = [np.array(result["violations"], dtype=float) for result in results]
    steps, episodes = (
        over([100 * row for row in of], form) for of, form in ((shares, ".1f"), ([s > 0 for s in shares], ".0f"))
    )
    return f"{steps} of steps, {episodes} of episodes"


def over(values: Sequence[Any], form: str) -> str:
    """A mean and its interval; with how many training seeds, where these are fewer than three."""
    found = interval([np.asarray(row, dtype=float) for row in values], same_starts=True)
    few = f" ({len(values)} seed{'s' if len(values) > 1 else ''})" if len(values) < 3 else ""
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]{few}"


def times(found: Found) -> str:
    """Milliseconds of a plan, and minutes of a training, by the clock of the machine that measured."""
    lines = []
    for arm in named(found):
        mine = [result for (name, _), several in found.items() if name == arm for result in several]
        plans = [p["seconds_per_plan"] for r in mine if (p := r["outcome"]["planning"])["seconds_per_plan"]]
        trained = [r["training"]["wall"] for r in mine if r["training"] and whole(r)]
        lines.append(
            [
                ARMS.get(arm, arm),
                f"{1e3 * np.median(plans):.0f}" if plans else "",
                f"{np.median(trained) / 60:.1f}" if trained else "",
            ]
        )
    return table(["planner", "ms a plan", "minutes of training"], lines)


def whole(result: Mapping[str, Any]) -> bool:
    """Whether the clock of its training ran from the first step to the last: metrics of some runs end earlier."""
    fields = result["settings"]["fields"]
    return result["training"].get("steps") == fields.get("clone", fields).get("steps")


def draw_fuzz(found: Mapping[str, Any] | None) -> None:
    """A sentence."""
    if found is None:
        write("planners_fuzz", NOTHING)
        return
    write(
        "planners_fuzz",
        f"Of {found['zones']:,} random situations with one or two zones, boxes and discs, {found['crossed']} plans "
        f"crossed one. {found['out']} of these are out afterwards, all along their way, to {found['worst']:.0e}; "
        f"{found['left']} are left as they were, for no sequence of convex parts led out. {found['touched']} plans "
        "were moved that were out already: their way passes a corner, and no one side of the box lies before both ends "
        "of a segment.\n",
    )
