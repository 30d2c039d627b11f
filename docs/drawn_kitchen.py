"""Draws what planners and cloning do in the scripted kitchens, from `benchmarks/results/kitchen`: a file for each job
of `make bench-kitchen`.

A Sphinx extension, as `drawn` is. What is missing is said where it would stand; a build without any result succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from drawn import COLOURS, DOCS, MARKERS, NOTHING, Page, figure_of, plain, stored_results, table, write, write_origin
from drawn_fv import banded, legend
from drawn_planners import over
from matplotlib.figure import Figure
from sphinx.application import Sphinx

from kedge.run.statistics import paired

STORED = DOCS.parent / "benchmarks" / "results" / "kitchen"
TASKS = ("partial", "mixed")
ARMS = {
    "fv": "FV",
    "dv": "DV, shortened: FV's network and length",
    "diffuser": "Diffuser, shortened",
    "cloned": "cloning, `DiffusionPolicy`",
    "regressed": "cloning by regression, one evaluation",
    "letter": "DV to the letter, on a GPU",
    "fv-40k": "FV for 40,000 steps, on a GPU",
}
PUBLISHED = {"partial": 94.0, "mixed": 73.6}
"""Diffusion Veteran's, on D4RL's own files."""
REFERENCE = "dv"
FIFTH = 0.2

Runs = Sequence[Mapping[str, Any]]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw(stored: Path = STORED) -> None:
    """All of it."""
    results = stored_results(stored)
    write_origin("kitchen_origin", "bench-kitchen", results)
    found = of_arms(results)
    write("kitchen_scores", scores(found) if found else NOTHING)
    write("kitchen_against", against(found) or NOTHING)
    draw_curves(found)


def of_arms(results: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The results of each arm in each kitchen, a training seed after the other."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results.values():
        settings = result["settings"]
        if settings["scale"] == "full":
            found.setdefault((settings["arm"], settings["task"]), []).append(result)
    return {(arm, task): found[arm, task] for arm in ARMS for task in TASKS if (arm, task) in found}


def ends(runs: Runs, place: int = -1) -> list[np.ndarray]:
    """The episodes' scores at a look, a training seed after the other."""
    return [np.asarray(run["checkpoints"][place]["score"]) for run in runs]


def scores(found: Mapping[tuple[str, str], Runs]) -> str:
    """A row an arm: the score in each kitchen, at a fifth of the training too, and what it took."""
    lines = []
    for arm in dict.fromkeys(arm for arm, _ in found):
        mine = {task: found[arm, task] for task in TASKS if (arm, task) in found}
        last = [run["checkpoints"][-1] for runs in mine.values() for run in runs]
        times = [1e3 * value for point in last if (value := point["planning"]["seconds_per_plan"])]
        lines.append(
            [
                ARMS[arm],
                *(over(ends(mine[task]), ".0f") if task in mine else "" for task in TASKS),
                *(over(ends(mine[task], fifth(mine[task][0])), ".0f") if task in mine else "" for task in TASKS),
                f"{last[0]['step']:,}",
                f"{np.median([point['cpu'] for point in last]) / 60:.0f}",
                f"{np.median(times):.0f}" if times else "",
            ]
        )
    head = ["", *TASKS, *(f"{task}, a fifth of it" for task in TASKS), "steps", "minutes of training", "ms a plan"]
    return table(head, lines)


def fifth(run: Mapping[str, Any]) -> int:
    """The place of the look after a fifth of the training."""
    looks = run["checkpoints"]
    return int(np.argmin([abs(look["step"] - FIFTH * looks[-1]["step"]) for look in looks]))


def against(found: Mapping[tuple[str, str], Runs]) -> str:
    """What is between an arm and Diffusion Veteran, on the same starts, seed by seed; and to the published figure."""
    lines = []
    for (arm, task), runs in found.items():
        other = {run["settings"]["seed"]: run for run in found.get((REFERENCE, task), ())}
        both = [(run, other[run["settings"]["seed"]]) for run in runs if run["settings"]["seed"] in other]
        if arm == REFERENCE or not both:
            continue
        gain = paired(ends([a for a, _ in both]), ends([b for _, b in both]), same_starts=True)
        value = gain.difference
        short = np.mean(np.concatenate(ends(runs))) - PUBLISHED[task]
        lines.append(
            [ARMS[arm], task, str(len(both)), f"{value.mean:+.0f} [{value.low:+.0f}, {value.high:+.0f}]",
             f"{gain.p:.2f}", f"{short:+.0f}"]
        )  # fmt: skip
    head = ["", "kitchen", "seeds", "over DV, shortened", "p over seeds", "over DV as published, on D4RL's files"]
    return table(head, lines) if lines else ""


def draw_curves(found: Mapping[tuple[str, str], Runs]) -> None:
    """Scores against the seconds of training."""
    if not found:
        write("kitchen_curves", NOTHING)
        return

    def paint(figure: Figure, page: Page) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        for axis, task in zip(axes, TASKS, strict=True):
            for place, arm in enumerate(ARMS):
                if runs := found.get((arm, task)):
                    minutes = np.mean([[look["cpu"] for look in run["checkpoints"]] for run in runs], 0) / 60
                    rows = np.array([[np.mean(look["score"]) for look in run["checkpoints"]] for run in runs])
                    name = ARMS[arm].split(",")[0].split(":")[0]
                    title = name if arm != "regressed" else "regression"
                    banded(axis, minutes, rows, COLOURS[place % 6], MARKERS[place % 6], title)
            axis.set_title(task, color=page.ink, fontsize=10)
            axis.set_xlabel("minutes of one core in training")
            plain(axis, page, grid="both")
        axes[0].set_ylabel("per cent of the four chores", color=page.ink)
        legend(figure, page, axes, columns=5)

    figure_of("kitchen_curves", (8.4, 4.0), paint, "Two panels, a kitchen each: chores done against training time.")
