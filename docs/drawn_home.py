"""Draws what the first page and the one on how it works show: scores from stored results, the kernel on an exact law.

A Sphinx extension, as `drawn` is.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawn import (
    BLUE,
    COLOURS,
    DOCS,
    DRAWN,
    GREEN,
    ORANGE,
    VERMILION,
    Page,
    figure_of,
    plain,
    stored_results,
    table,
    write,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave
from sphinx.application import Sphinx

import kedge
from kedge.run.statistics import interval

STORED = DOCS.parent / "benchmarks" / "results" / "fv"
MAZES = ("umaze", "medium", "large")
BESIDE = {
    "optimal": "the least time that physics allows; knows the map",
    "astar": "shortest path, the same follower; knows the map",
    "nearest": "the nearest logged segments, same critic and follower",
    "controller": "the controller that made the data",
}
SIZE = (3.5, 2.5)
LOW, HIGH = 0.05, 5.0
"""Noise scales between which the kernel is drawn."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw(stored: Path = STORED) -> None:
    """All of it."""
    draw_pictures()
    draw_scores(stored_results(stored, "head*.json"))
    law, path = two_modes(), kedge.paths.VarianceExploding()
    draw_path(law)
    draw_denoiser(law, path)
    draw_fit(law, path)
    draw_walk(law, path)


def draw_pictures(report: Path = DOCS / "pictures" / "report.png") -> None:
    """The two halves of the demo's picture, without its head: a phone shows them below each other."""
    whole = imread(report)
    height, width = whole.shape[:2]
    rows = slice(round(0.2 * height), round(0.94 * height))  # below the head, above the captions
    imsave(DRAWN / "plans.png", whole[rows, round(0.0234 * width) : round(0.4867 * width)])
    imsave(DRAWN / "paths.png", whole[rows, round(0.5133 * width) : round(0.9766 * width)])


def draw_scores(results: Mapping[str, Mapping[str, Any]]) -> None:
    """The scores of FV and what stands beside it; the mean is over training seeds and starts."""
    ours, cells = {}, dict[str, list[str]]()
    for maze in MAZES:
        runs = [
            np.array(r["outcome"]["latched"]) for name, r in results.items() if name.startswith(f"headline-fv-{maze}-")
        ]
        ours[maze] = str(interval(runs, same_starts=True)) if runs else "missing"
        rows = results.get(f"headline-beside-{maze}", {"rows": []})["rows"]
        found = {row["key"]: f"{row['latched']['mean']:.1f}" for row in rows}
        for key in BESIDE:
            cells.setdefault(key, []).append(found.get(key, "missing"))
    rows = [
        [
            "**FV**, with its 95 % interval",
            *(f"**{cell.split(' ')[0]}** {cell.partition(' ')[2]}" for cell in ours.values()),
        ]
    ]
    rows += [[said, *cells[key]] for key, said in BESIDE.items()]
    write("home_scores", table(["score, latched", *MAZES], rows))


# The kernel, on a law whose every quantity is known


def two_modes() -> kedge.exact.GaussianMixture:
    """One dimension, two modes."""
    return kedge.exact.GaussianMixture([0.35, 0.65], torch.tensor([[-1.0], [0.8]]), [0.02, 0.04])


def draw_path(law: kedge.exact.GaussianMixture) -> None:
    """Samples that become noise, each along its own noise."""
    scale = np.geomspace(LOW, HIGH, 60)
    x = law.sample(14, seeds=3).numpy()[:, 0]
    z = np.random.default_rng(4).normal(size=14)

    def paint(figure: Figure, page: Page) -> None:
        axis = figure.subplots()
        for one, noise in zip(x, z, strict=True):
            axis.plot(scale, one + scale * noise, color=VERMILION if one < 0 else BLUE, linewidth=1.1)
            axis.plot(LOW, one + LOW * noise, "o", markersize=3.5, color=VERMILION if one < 0 else BLUE)
        _scaled(axis, page, "noise scale: data left, noise right")
        axis.set_ylim(-5, 5)
        axis.set_ylabel("$x_t$", color=page.ink)

    figure_of("how_path", SIZE, paint, "Lines that begin at two modes and fan out as the noise grows.")


def draw_denoiser(law: kedge.exact.GaussianMixture, path: kedge.paths.VarianceExploding) -> None:
    """The expected clean x, at three levels."""
    x_t = torch.linspace(-3, 3, 200, dtype=torch.float64)[:, None]
    oracle = law.denoiser(path)

    def paint(figure: Figure, page: Page) -> None:
        axis = figure.subplots()
        for scale, colour in zip((0.2, 0.7, 2.0), (GREEN, BLUE, ORANGE), strict=True):
            axis.plot(
                x_t[:, 0], oracle(x_t, path.time_at(scale))[:, 0], color=colour, linewidth=1.6, label=f"scale {scale:g}"
            )
        plain(axis, page, grid="both")
        axis.set_xlabel("$x_t$")
        axis.set_ylabel("expected clean $x$", color=page.ink)
        axis.legend(loc="upper left", frameon=False, fontsize=8.5, labelcolor=page.ink)

    figure_of(
        "how_denoiser", SIZE, paint, "Steep steps from one mode to the other at little noise, a gentle slope at much."
    )


def draw_fit(law: kedge.exact.GaussianMixture, path: kedge.paths.VarianceExploding) -> None:
    """Draws, their errors, and the least error that there is."""
    count = 300
    proposal = kedge.fit.proposals.LogNormal(mean=-0.7, std=1.0)
    x = law.sample(count, seeds=0)
    asked = proposal.draw(path, x, kedge.Noise.of(0, batch=count), step=0)
    error, _ = kedge.fit.denoising_error(law.denoiser(path), x, asked)
    scale = np.geomspace(LOW, HIGH, 60)
    least = [float(law.loss(path, path.time_at(one))) for one in scale]

    def paint(figure: Figure, page: Page) -> None:
        axis = figure.subplots()
        axis.plot(path.noise_scale(asked.t), error[:, 0], ".", markersize=3, color=COLOURS[5], label="draws")
        axis.plot(scale, least, color=VERMILION, linewidth=1.6, label="least mean error")
        axis.set_yscale("log")
        axis.set_ylim(1e-4, 100)
        _scaled(axis, page, "noise scale")
        axis.set_ylabel("squared error", color=page.ink)
        axis.legend(loc="upper left", frameon=False, fontsize=8.5, labelcolor=page.ink)

    figure_of("how_fit", SIZE, paint, "Dots, each the error of one draw, around a curve that rises with the noise.")


def draw_walk(law: kedge.exact.GaussianMixture, path: kedge.paths.VarianceExploding) -> None:
    """From noise to data, level by level."""
    levels = [path.time_at(scale) for scale in np.geomspace(HIGH, LOW, 12)]
    start = law.marginal(path, levels[0]).sample(14, seeds=7)
    oracle, states = law.denoiser(path), [start]
    for first, last in pairwise(levels):
        grid = kedge.grids.Levels([first, last])
        states.append(kedge.sample(oracle, states[-1], grid=grid, solver=kedge.solvers.Heun()))
    lines = torch.stack(states)[..., 0].T

    def paint(figure: Figure, page: Page) -> None:
        axis = figure.subplots()
        for line in lines:
            colour = VERMILION if line[-1] < 0 else BLUE
            axis.plot(levels, line, color=colour, linewidth=1.0, marker="o", markersize=2)
        _scaled(axis, page, "noise scale: noise left, data right")
        axis.invert_xaxis()
        axis.set_ylim(-5, 5)
        axis.set_ylabel("$x_t$", color=page.ink)

    figure_of("how_walk", SIZE, paint, "Lines that begin far apart and end in the two modes.")


def _scaled(axis: Axes, page: Page, label: str) -> None:
    axis.set_xscale("log")
    axis.set_xlabel(label)
    plain(axis, page, grid="both")
    axis.tick_params(which="minor", length=0)
