"""How plans and paths in a maze are drawn: on any matplotlib axes, in colours that all eyes tell apart.

A maze is drawn as its text reads: rows downwards, columns to the right. A position is (row, column), so that the second
number of a point runs along the picture and the first one down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Palette:
    """The roles that colours play. The hues are Okabe and Ito's, the ramp runs in lightness alone.

    No two roles share a colour: a picture can be repainted by exchanging one palette for another.
    """

    ink: str = "#1b1f24"
    muted: str = "#5b6470"
    line: str = "#d9dee4"
    wall: str = "#b9c3cd"
    paper: str = "#ffffff"
    blue: str = "#0072b2"
    vermillion: str = "#d55e00"
    green: str = "#009e73"
    purple: str = "#cc79a7"
    orange: str = "#e69f00"
    sky: str = "#56b4e9"
    ramp: tuple[str, ...] = (
        "#bfd0e1", "#aec6dc", "#97b8d6", "#7ca8cf", "#578dbe", "#3671a8", "#1d558b", "#0b3a66",
    )  # fmt: skip

    @property
    def series(self) -> tuple[str, ...]:
        """Colours for things that have no order, the most distinct first."""
        return (self.blue, self.vermillion, self.green, self.purple, self.orange, self.sky)


LIGHT = Palette()

CANDIDATES = 200
"""More candidates than this are not drawn: those of highest value are."""


def shades(values: Float[np.ndarray, " n"], palette: Palette = LIGHT) -> list[str]:
    """A colour of the ramp for each value, by rank: a few extreme values do not make the others look alike."""
    ramp = palette.ramp
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return [ramp[int(r) * len(ramp) // max(len(values), 1)] for r in rank]


def draw_maze(ax: Any, maze: Any) -> None:
    """The walls and the goal, in the colours of `LIGHT`.

    Args:
        ax: matplotlib axes.
        maze: a `kedge.envs.Maze2D`, or its layout.
    """
    from matplotlib.patches import Rectangle

    from kedge.envs.render import draw  # physics are not for everyone who draws a plan

    draw(getattr(maze, "layout", maze), ax)
    ax.set_autoscale_on(False)
    for wall in ax.patches:
        if isinstance(wall, Rectangle):  # lighter than they come, so that plans that run through them are seen
            wall.set_color(LIGHT.wall)
    ax.set_axis_off()


def draw_start(ax: Any, point: Sequence[float] | np.ndarray, palette: Palette = LIGHT, size: float = 6.0) -> None:
    """A dot where it begins."""
    ax.plot(
        [point[1]], [point[0]], marker="o", markersize=size, color=palette.ink, markeredgecolor=palette.paper,
        markeredgewidth=0.8, linestyle="none", zorder=5,
    )  # fmt: skip


def draw_path(
    ax: Any, points: Float[np.ndarray, "t 2"], colour: str, width: float = 1.4, opacity: float = 1.0, **style: Any
) -> None:
    """A line through positions."""
    ax.plot(points[:, 1], points[:, 0], color=colour, linewidth=width, alpha=opacity, solid_capstyle="round", **style)


def draw_lines(
    ax: Any, lines: Sequence[np.ndarray], colours: Sequence[str], width: float = 0.8, opacity: float = 1.0
) -> None:
    """Many lines through positions at once, the later ones on top."""
    from matplotlib.collections import LineCollection

    flipped = [np.asarray(line, dtype=float)[:, 1::-1] for line in lines]
    style: dict[str, Any] = {"linewidths": width, "alpha": opacity, "capstyle": "round", "zorder": 2}
    ax.add_collection(LineCollection(flipped, colors=list(colours), **style))
    ax.autoscale_view()


def draw_candidates(
    ax: Any,
    states: Float[np.ndarray, "n h s"],
    values: Float[np.ndarray, " n"],
    best: int | None = None,
    palette: Palette = LIGHT,
) -> None:
    """Plans that were made for one state, darker the better the critic likes them; the chosen one stands out."""
    order = np.argsort(values, kind="stable")[-CANDIDATES:]
    colours = shades(np.asarray(values, dtype=float)[order], palette)
    draw_lines(ax, list(states[order]), colours)
    if best is not None:
        chosen = np.asarray(states[best, :, :2], dtype=float)
        draw_path(ax, chosen, palette.vermillion, width=2.0, zorder=4, marker="o", markersize=2.6)


def draw_plan(plan: Any, maze: Any = None, ax: Any = None, index: int = 0, palette: Palette = LIGHT) -> Any:
    """A plan's candidates for one of its states, the chosen one on top. Returns the axes.

    Args:
        plan: has `states [B, N, H, S]`, `values [B, N]` and `best [B]`.
        maze: its walls are drawn, if it is given.
        ax: matplotlib axes; by default a new figure's.
        index: which of the B states.
        palette: the colours.
    """
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots()[1]
    states, values = _array(plan.states)[index], _array(plan.values)[index]
    if maze is not None:
        draw_maze(ax, maze)
    else:
        ax.set_aspect("equal")
        ax.invert_yaxis()
    draw_candidates(ax, states, values, int(_array(plan.best)[index]), palette)
    draw_start(ax, states[0, 0, :2], palette)
    return ax


def _array(tensor: Any) -> np.ndarray:
    """A tensor, or an array, as an array."""
    return tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(tensor)
