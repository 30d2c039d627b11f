"""Mazes as pictures: on matplotlib's axes, and as an array without a display."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from kedge.envs.layout import BALL, REACH, WALL_OFFSET, Layout

WALL, FLOOR, GOAL, BALL_COLOUR = "#3b4252", "#ffffff", "#009e73", "#0072b2"
"""Told apart in brightness as well as in hue: Okabe and Ito's green and blue on white."""

PIXELS = 40
"""Across a cell in an array."""

_FINER = 4
"""Each pixel is the mean of this many on each axis, which softens the edges of discs."""


def draw(layout: Layout, ax: Any) -> Any:
    """Draws walls and goal on matplotlib axes as the maze's text stands: columns to the right, rows downwards.

    What is drawn on top, too, has the column first: `ax.plot(positions[:, 1], positions[:, 0])`.
    """
    from matplotlib.patches import Circle, Rectangle  # figures are not for everyone who steps a maze

    rows, columns = layout.walls.shape
    for x0, y0, x1, y1 in layout.blocks:
        ax.add_patch(Rectangle((y0, x0), y1 - y0, x1 - x0, facecolor=WALL, edgecolor=WALL, linewidth=0.5, zorder=1))
    x, y = (float(value) for value in layout.goal)
    ax.add_patch(Circle((y, x), REACH, facecolor=GOAL, alpha=0.25, edgecolor=GOAL, linewidth=1.0, zorder=2))
    ax.plot([y], [x], marker="*", color=GOAL, markersize=9, markeredgecolor="none", linestyle="none", zorder=5)
    ax.set_facecolor(FLOOR)
    edge = 0.5 + WALL_OFFSET
    ax.set_xlim(-edge, columns - edge)
    ax.set_ylim(rows - edge, -edge)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def picture(
    layout: Layout, position: Float[np.ndarray, " 2"] | None = None, pixels: int = PIXELS
) -> UInt8[np.ndarray, "height width 3"]:
    """The maze from above, with the ball where a position is given. Rows downwards, columns to the right."""
    image = _still(layout, pixels).copy()
    if position is not None:
        _disc(image, np.asarray(position, float), BALL, BALL_COLOUR, 1.0, pixels)
    return image


@lru_cache(maxsize=32)
def _still(layout: Layout, pixels: int) -> UInt8[np.ndarray, "height width 3"]:
    """Walls and goal."""
    cells = np.where(layout.walls[..., None], _rgb(WALL), _rgb(FLOOR)).astype(np.uint8)
    image = cells.repeat(pixels, 0).repeat(pixels, 1)
    for x0, y0, x1, y1 in layout.drawn:
        a, b, c, d = (max(round((edge + 0.5 + WALL_OFFSET) * pixels), 0) for edge in (x0, x1, y0, y1))
        image[a:b, c:d] = _rgb(WALL)
    _disc(image, layout.goal, REACH, GOAL, 0.3, pixels)
    _disc(image, layout.goal, BALL, GOAL, 1.0, pixels)
    return image


def _rgb(colour: str) -> Float[np.ndarray, " 3"]:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=float)


def _disc(
    image: UInt8[np.ndarray, "height width 3"],
    centre: Float[np.ndarray, " 2"],
    radius: float,
    colour: str,
    opacity: float,
    pixels: int,
) -> None:
    """Paints a disc, given in joint coordinates, onto an image of the maze."""
    first = np.maximum(np.floor((centre - radius + 0.5 + WALL_OFFSET) * pixels), 0).astype(int)
    last = np.minimum(np.ceil((centre + radius + 0.5 + WALL_OFFSET) * pixels), image.shape[:2]).astype(int)
    if (first >= last).any():
        return
    x, y = (
        (np.arange(a * _FINER, b * _FINER) + 0.5) / (pixels * _FINER) - (0.5 + WALL_OFFSET) - c
        for a, b, c in zip(first, last, centre, strict=True)
    )
    fine = (x[:, None] ** 2 + y[None, :] ** 2 <= radius**2).astype(float)
    height, width = last - first
    cover = opacity * fine.reshape(height, _FINER, width, _FINER).mean((1, 3))[..., None]
    patch = image[first[0] : last[0], first[1] : last[1]]
    patch[:] = np.rint(cover * _rgb(colour) + (1 - cover) * patch)
