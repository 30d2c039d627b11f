"""The report's pictures. Each takes plain arrays and returns SVG; what it means is said beside it, on the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kedge.plan.drawing import LIGHT, draw_candidates, draw_lines, draw_maze, draw_path, draw_start, shades
from kedge.run.report.svg import panel, to_svg

POINTS = 400
"""A curve is drawn with at most so many points."""


class Curve(NamedTuple):
    """A line of a diagram."""

    name: str
    x: np.ndarray
    y: np.ndarray


def curves(lines: Sequence[Curve], across: str, up: str, alt: str, *, log: bool = False) -> str:
    """Lines over a common axis, thinned to the median of neighbours where there are many."""
    figure, ax = panel()
    for line, colour in zip(lines, _series(len(lines)), strict=True):
        x, y = thinned(line.x, line.y)
        ax.plot(x, y, color=colour, linewidth=1.5, label=line.name)
    finite = [y for line in lines for y in line.y[np.isfinite(line.y)]]
    if log and finite and min(finite) > 0:
        plain_log(ax)
    ax.set_xlabel(across)
    ax.set_title(up, loc="left")
    ax.margins(x=0.01)
    if len(lines) > 1:
        ax.legend()
    return to_svg(figure, alt)


def plain_log(ax: Any, along: str = "y") -> None:
    """A logarithmic axis with plain numbers on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set(**{f"{along}scale": "log"})
    axis = getattr(ax, f"{along}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if along == "y" else (1.0, 3.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `POINTS` points: medians of neighbours, which a single spike does not move."""
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    group = -(-len(x) // POINTS)
    if group < 2:
        return x, y
    whole = len(x) // group * group
    return tuple(np.median(part[:whole].reshape(-1, group), axis=1) for part in (x, y))  # type: ignore[return-value]


def landscape(step: np.ndarray, scale: np.ndarray, error: np.ndarray, fitted: np.ndarray, alt: str) -> str:
    """`log L` against `log sigma`: what was measured as points, the polynomial as lines, later steps stronger."""
    figure, ax = panel(4.2, 3.4, below=1.05)
    moments = np.unique(step)
    shown = moments[np.unique(np.linspace(0, len(moments) - 1, min(len(moments), 6)).round().astype(int))]
    colours = _spread(len(shown))
    for moment, colour in zip(shown, colours, strict=True):
        rows = step == moment
        order = np.argsort(scale[rows], kind="stable")
        x, measured, line = (column[rows][order] for column in (scale, error, fitted))
        ax.plot(x, measured, ".", color=colour, markersize=3.5)
        ax.plot(x, line, color=colour, linewidth=1.6, label=f"step {moment:,.0f}")
    ax.set_xlabel("log σ, the noise scale: clean on the left, noise on the right")
    ax.set_title("log L, the mean squared error there", loc="left")
    figure.legend(loc="lower center", ncols=3)
    return to_svg(figure, alt)


def arrivals(lines: Sequence[tuple[str, np.ndarray]], horizon: int, alt: str) -> str:
    """The share of episodes that have reached the goal by each step; an episode that never does has infinity."""
    figure, ax = panel(4.2, 3.0)
    for (name, steps), colour in zip(lines, _series(len(lines)), strict=True):
        when = np.sort(steps[np.isfinite(steps)])
        share = np.arange(1, len(when) + 1) / max(len(steps), 1)
        x = np.concatenate([[0.0], when, [float(horizon)]])
        y = np.concatenate([[0.0], share, [share[-1] if len(share) else 0.0]])
        ax.step(x, 100 * y, where="post", color=colour, linewidth=1.6, label=name)
    ax.set_xlim(0, horizon)
    ax.set_ylim(0, 101)
    ax.set_xlabel("step of the episode")
    ax.set_title("episodes that have reached the goal, %", loc="left")
    ax.legend(loc="lower right")
    return to_svg(figure, alt)


def crowd(layout: Any, paths: Sequence[np.ndarray], steps: np.ndarray, alt: str) -> str:
    """Many executed paths at once; the sooner one arrives, the stronger its colour, and one that never does is red."""
    figure, ax = maze_panel(layout, 4.6)
    paint_crowd(ax, paths, steps)
    return to_svg(figure, alt)


def paint_crowd(ax: Any, paths: Sequence[np.ndarray], steps: np.ndarray, width: float = 0.8) -> None:
    """Draws `crowd` on axes."""
    colours = shades(-np.where(np.isfinite(steps), steps, np.inf))
    colours = [colour if np.isfinite(step) else LIGHT.vermillion for colour, step in zip(colours, steps, strict=True)]
    order = np.argsort(np.where(np.isfinite(steps), -steps, 1), kind="stable")  # those that never arrive on top
    draw_lines(ax, [sparse(paths[i]) for i in order], [colours[i] for i in order], width, 0.8)
    starts = np.array([path[0] for path in paths])
    ax.plot(starts[:, 1], starts[:, 0], "o", color=LIGHT.ink, markersize=2.0, zorder=5)


def episode(layout: Any, path: np.ndarray, plans: Sequence[np.ndarray], solved: bool, alt: str) -> str:
    """One executed path with the plans that it followed."""
    figure, ax = maze_panel(layout, 2.6)
    draw_lines(ax, plans, [LIGHT.orange] * len(plans), 0.7, 0.9)
    draw_path(ax, sparse(path), LIGHT.blue if solved else LIGHT.vermillion, width=1.7, zorder=4)
    draw_start(ax, path[0])
    return to_svg(figure, alt)


def fan(layout: Any, states: np.ndarray, values: np.ndarray, best: int, alt: str) -> str:
    """All candidates for one state."""
    figure, ax = maze_panel(layout, 3.1)
    draw_candidates(ax, states, values, best)
    draw_start(ax, states[0, 0, :2])
    return to_svg(figure, alt)


def frame(layout: Any, states: np.ndarray, best: int, alt: str) -> str:
    """The candidates as they are estimated at one noise level, the later winner on top."""
    figure, ax = maze_panel(layout, 2.2)
    draw_lines(ax, list(states), [LIGHT.ramp[2]] * len(states), 0.6, 0.8)
    draw_path(ax, states[best, :, :2], LIGHT.vermillion, width=1.8, zorder=4, marker="o", markersize=2.2)
    draw_start(ax, states[0, 0, :2], size=5.0)
    return to_svg(figure, alt)


def maze_panel(layout: Any, width: float) -> tuple[Any, Any]:
    """Axes with a maze on them, in its proportions."""
    deep, wide = layout.walls.shape
    figure, ax = panel(width, width * deep / wide)
    ax.set_position((0.0, 0.0, 1.0, 1.0))
    draw_maze(ax, layout)
    return figure, ax


def sparse(path: np.ndarray, every: int = 4) -> np.ndarray:
    """Every few steps of a path and its last one: as many as the eye needs."""
    path = path[np.isfinite(path).all(axis=1)]
    return np.concatenate([path[:-1:every], path[-1:]])


def _series(n: int) -> list[str]:
    return [LIGHT.series[i % len(LIGHT.series)] for i in range(n)]


def _spread(n: int) -> list[str]:
    """n colours of the ramp, from its second to its last."""
    places = np.linspace(1, len(LIGHT.ramp) - 1, n).round().astype(int) if n > 1 else [len(LIGHT.ramp) - 1]
    return [LIGHT.ramp[int(i)] for i in places]
