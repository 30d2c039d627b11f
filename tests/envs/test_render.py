"""Mazes as pictures."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kedge.envs import Layout, Maze2D
from kedge.envs.render import BALL_COLOUR, FLOOR, GOAL, WALL, _rgb, picture


def pixel(image: np.ndarray, x: float, y: float, pixels: int = 40) -> list[int]:
    """The colour at a point in joint coordinates."""
    return image[int((x + 0.7) * pixels), int((y + 0.7) * pixels)].tolist()


def test_every_cell_has_its_colour_rows_down_columns_right() -> None:
    layout = Layout.of("large")
    image = picture(layout, np.array([3.0, 1.0]))
    assert image.shape == (9 * 40, 12 * 40, 3)
    for r in range(9):
        for c in range(12):
            wanted = WALL if layout.walls[r, c] else FLOOR
            assert pixel(image, r - 0.6, c - 0.6) == _rgb(wanted).tolist()
    assert pixel(image, 3.0, 1.0) == _rgb(BALL_COLOUR).tolist()
    assert pixel(image, 7.0, 9.0) == _rgb(GOAL).tolist()


def test_a_ball_covers_its_area_and_is_cut_at_the_border() -> None:
    """The ink of the ball against pi r^2; a border of 16 samples a pixel errs by less than a twentieth."""
    layout = Layout.of("large")
    still = picture(layout).astype(float)
    ball = picture(layout, np.array([3.013, 1.171])).astype(float)
    covered = ((still - ball) / (255 - _rgb(BALL_COLOUR))).mean(-1).sum() / 40**2
    assert abs(covered / (np.pi * 0.1**2) - 1) < 0.05
    np.testing.assert_array_equal(picture(layout, np.array([-5.0, 30.0])), still)
    assert picture(layout, np.array([-0.7, 2.0])).shape == still.shape


def test_the_environment_renders_where_it_is_asked_to() -> None:
    silent, seen = Maze2D("umaze"), Maze2D("umaze", render_mode="rgb_array")
    silent.reset(seed=0)
    x = seen.reset(seed=0)[0]
    assert silent.render() is None
    image = seen.render()
    assert image is not None
    assert image.dtype == np.uint8
    assert pixel(image, x[0], x[1]) == _rgb(BALL_COLOUR).tolist()


def test_axes_show_the_same_as_the_array() -> None:
    """Drawn a cell to 20 pixels without margins, compared in the corner of each cell."""
    maze = Maze2D("medium")
    figure = Figure(figsize=(8, 8), dpi=20)
    ax = figure.add_axes((0, 0, 1, 1))
    assert maze.draw(ax) is ax
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3]
    for r in range(8):
        for c in range(8):
            wanted = _rgb(WALL if maze.layout.walls[r, c] else FLOOR)
            assert np.abs(drawn[r * 20 + 2, c * 20 + 2] - wanted).max() < 30
    assert drawn[int(6.7 * 20), int(6.7 * 20)][1] > drawn[int(6.7 * 20), int(6.7 * 20)][0]  # the green star
