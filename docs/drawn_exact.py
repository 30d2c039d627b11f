"""Draws what weightings bring on targets whose best denoiser is known, for the page of FV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from drawn import COLOURS, MARKERS, NOTHING, Page, figure_of, plain, table, write
from matplotlib.figure import Figure

NAMES = {
    "gentle": "modes of std .3, batch 64",
    "steep": "modes of std .02, batch 64",
    "few-samples": "modes of std .02, batch 4",
    "many-tasks": "16 tasks, std .01 to .5, batch 64",
}
ARMS = {"uniform": 2, "min-snr": 3, "head": 4, "polynomial": 5}
"""The weightings, and the places of their colours, which are those of the ablation."""
REFERENCE = "uniform"


def draw_exact(results: Mapping[str, Mapping[str, Any]]) -> None:
    """The table and the figure."""
    found = {name: results[f"exact-{name}"] for name in NAMES if f"exact-{name}" in results}
    if not found:
        for piece in ("fv_exact", "fv_exact_figure"):
            write(piece, NOTHING)
        return
    rows = [[NAMES[name], *(_cell(result, arm) for arm in ARMS)] for name, result in found.items()]
    seeds = max(len(_nats(result, REFERENCE)) for result in found.values())
    write("fv_exact", table(["nats, mean of the seeds", *ARMS], rows) + f"\n{seeds} training seeds.\n")

    def paint(figure: Figure, page: Page) -> None:
        for axis, (name, result) in zip(np.atleast_1d(figure.subplots(1, len(found))), found.items(), strict=True):
            for arm, place in ARMS.items():
                rows = np.array([row["excess"] for row in result["rows"] if row["arm"] == arm]) / result["least"]
                style = {"color": COLOURS[place], "marker": MARKERS[place], "markersize": 2.5, "linewidth": 1.2}
                axis.plot(result["scale"], np.exp(np.log(rows).mean(0)), label=arm, **style)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_title(name.replace("-", " "), color=page.ink, fontsize=10)
            axis.set_xlabel("noise scale")
            plain(axis, page, grid="both")
        figure.axes[0].set_ylabel("excess over the least error", color=page.ink)
        lines = figure.axes[0].get_lines()
        figure.legend(
            lines, list(ARMS), loc="outside lower center", ncols=len(ARMS), frameon=False, fontsize=8.5,
            labelcolor=page.ink,
        )  # fmt: skip

    figure_of(
        "fv_exact_figure", (8.4, 3.1), paint, "A panel a target: how far each weighting's network is from the best one."
    )


def _nats(result: Mapping[str, Any], arm: str) -> np.ndarray:
    """Seed by seed."""
    rows = sorted((row["seed"], row["nats"]) for row in result["rows"] if row["arm"] == arm)
    return np.array([nats for _, nats in rows])


def _cell(result: Mapping[str, Any], arm: str) -> str:
    """The mean, and what it is relative to the reference: a geometric mean over seeds, and their range."""
    own = _nats(result, arm)
    if arm == REFERENCE:
        return f"{own.mean():.3g}"
    percent = 100 * (own / _nats(result, REFERENCE) - 1)
    mean = 100 * (np.exp(np.log(own / _nats(result, REFERENCE)).mean()) - 1)
    return f"{own.mean():.3g}, {mean:+.0f} % ({percent.min():+.0f} to {percent.max():+.0f})"
