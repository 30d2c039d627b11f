"""The report as one picture: candidates on the left, what was executed on the right, the score above."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from kedge.errors import InputError
from kedge.plan.drawing import LIGHT, draw_candidates, draw_maze, draw_start
from kedge.run.report.figures import paint_crowd
from kedge.run.report.reading import Run
from kedge.run.report.views import Headline, crowd_of

WIDTH, HEIGHT, DOTS = 10.0, 4.7, 128


def write_headline(
    path: Path, run: Run, layout: Any, headline: Headline, heading: str, plan: Any = None
) -> Path | None:
    """Writes the picture; nothing where there are no paths to draw."""
    if run.scores is None or run.scores.positions is None or not run.scores.positions.size:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DOTS, facecolor="white")
    figure.text(0.02, 0.955, heading, fontsize=15, weight="bold", color=LIGHT.ink, va="top")
    figure.text(0.98, 0.965, headline.score, fontsize=26, weight="bold", color=LIGHT.blue, va="top", ha="right")
    figure.text(0.02, 0.875, f"{headline.kind} score, {headline.interval}", fontsize=10, color=LIGHT.muted, va="top")
    places = [(0.02, 0.06, 0.47, 0.74), (0.51, 0.06, 0.47, 0.74)] if plan is not None else [(0.1, 0.06, 0.8, 0.74)]
    axes = [figure.add_axes(place) for place in places]
    for ax in axes:
        draw_maze(ax, layout)
    paint_crowd(axes[-1], *crowd_of(run.scores))
    _below(figure, axes[-1], "what was executed: one line an episode, stronger the sooner it arrives")
    if plan is not None:
        states, values, best = (_array(part)[0] for part in (plan.states, plan.values, plan.best))
        draw_candidates(axes[0], states, values, int(best))
        draw_start(axes[0], states[0, 0, :2])
        _below(figure, axes[0], f"{len(values)} candidate plans from one start, the chosen one on top")
    return _written(figure, path)


def _below(figure: Any, ax: Any, text: str) -> None:
    box = ax.get_position()
    figure.text((box.x0 + box.x1) / 2, 0.035, text, fontsize=9, color=LIGHT.muted, ha="center", va="center")


def _written(figure: Any, path: Path) -> Path:
    scratch = path.with_name(f".writing-{path.name}")
    try:
        figure.savefig(scratch, format="png", metadata={"Software": None})
        os.replace(scratch, path)
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"{path}: the report's picture could not be written ({why})") from None
    finally:
        scratch.unlink(missing_ok=True)
    return path


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(tensor)
