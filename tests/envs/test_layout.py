"""Mazes as text, and what meets their walls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from kedge.envs import Layout
from kedge.envs.model import compiled
from kedge.envs.waypoints import Routes
from kedge.errors import InputError

KNOWN = pytest.mark.parametrize("name", Layout.known())


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Mazes with some goal; cells without a way to it are closed."""
    rows, columns = draw(st.integers(3, 7)), draw(st.integers(3, 7))
    inner = draw(stn.arrays(bool, (rows - 2, columns - 2), elements=st.booleans()))
    goal = (draw(st.integers(1, rows - 2)), draw(st.integers(1, columns - 2)))
    walls = np.pad(inner, 1, constant_values=True)
    walls[goal] = False
    reached, queue = {goal}, [goal]
    while queue:
        r, c = queue.pop()
        near = {(r + i, c + j) for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0))} - reached
        found = {cell for cell in near if not walls[cell]}
        reached |= found
        queue += found
    text = [["O" if (r, c) in reached else "#" for c in range(columns)] for r in range(rows)]
    text[goal[0]][goal[1]] = "G"
    return "\n".join("".join(row) for row in text)


@given(texts(), st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.35]))
def test_a_point_is_blocked_where_one_of_the_boxes_is_near(text: str, seed: int, radius: float) -> None:
    layout = Layout.of(text)
    points = np.random.default_rng(seed).uniform(-1.5, 8, (40, 5, 2))
    low, high = layout.boxes[:, :2], layout.boxes[:, 2:]
    nearest = np.clip(points[..., None, :], low, high)
    near = np.linalg.norm(nearest - points[..., None, :], axis=-1).min(-1) <= radius
    np.testing.assert_array_equal(layout.blocked(points, inflated=radius), near)


@given(texts(), st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.35]))
def test_a_line_crosses_a_wall_where_its_points_do(text: str, seed: int, radius: float) -> None:
    """400 points along each line lie within `slack` of any point of it, so the two answers frame each other."""
    layout, rng = Layout.of(text), np.random.default_rng(seed)
    a = rng.uniform(-0.7, 6.3, (60, 2))
    b = a + rng.normal(0, 1, (60, 2)) * rng.choice([0, 0.1, 1], (60, 2))  # upright, level and no lines among them
    points = a[:, None] + np.linspace(0, 1, 400)[:, None] * (b - a)[:, None]
    slack = np.linalg.norm(b - a, axis=1).max() / 399 / 2 + 1e-12
    crossed = layout.crosses(a, b, inflated=radius)
    assert not (layout.blocked(points, radius).any(1) & ~crossed).any()
    assert not (crossed & ~layout.blocked(points, radius + slack).any(1)).any()


@given(texts(), st.integers(0, 2**32))
def test_a_line_has_no_direction_and_no_line_is_a_point(text: str, seed: int) -> None:
    layout = Layout.of(text)
    a, b = np.random.default_rng(seed).uniform(-1, 7, (2, 3, 20, 2))
    np.testing.assert_array_equal(layout.crosses(a, b, 0.1), layout.crosses(b, a, 0.1))
    np.testing.assert_array_equal(layout.crosses(a, a, 0.1), layout.blocked(a, 0.1))


def test_a_ball_may_cut_a_corner_that_its_bounding_square_may_not() -> None:
    """Past the corner (3.3, 4.3) of the block in the middle, at a distance of 0.105 along the diagonal."""
    layout = Layout.of("#######/#OOOOO#/#O###O#/#O###O#/#OOOOO#/#OOOGO#/#######")
    corner = np.array([3.3, 4.3])
    out, along = np.array([1.0, 1.0]) / np.sqrt(2), np.array([1.0, -1.0]) / np.sqrt(2)
    for distance, met in ((0.105, False), (0.095, True)):
        middle = corner + distance * out
        assert bool(layout.crosses(middle - 0.2 * along, middle + 0.2 * along, inflated=0.1)) is met


@KNOWN
def test_boxes_and_blocks_are_what_the_ball_meets(name: str) -> None:
    layout = Layout.of(name)
    model = compiled(layout)
    body = model.body("ball").pos[:2]
    geoms = [model.geom(i) for i in range(model.ngeom)]
    boxes = [
        np.r_[g.pos[:2] - g.size[:2], g.pos[:2] + g.size[:2]] - np.r_[body, body] for g in geoms if g.name != "ball"
    ]
    np.testing.assert_allclose(sorted(map(tuple, boxes)), sorted(map(tuple, layout.boxes)), atol=1e-12)
    area = (layout.blocks[:, 2:] - layout.blocks[:, :2]).prod(1).sum()
    assert area == pytest.approx(layout.walls.sum())


@pytest.mark.parametrize(
    ("name", "cells", "goal", "horizon", "references"),
    [
        ("umaze", 7, (1, 1), 300, (23.85, 161.86)),
        ("medium", 26, (6, 6), 600, (13.13, 277.39)),
        ("large", 46, (7, 9), 800, (6.7, 273.99)),
    ],
)
def test_the_mazes_are_those_of_d4rl(
    name: str, cells: int, goal: tuple[int, int], horizon: int, references: tuple[float, float]
) -> None:
    layout = Layout.of(name)
    assert (len(layout.free), layout.cell, layout.horizon, layout.references) == (cells, goal, horizon, references)
    assert layout.free[-1] == goal
    assert layout.free[:-1] == tuple(sorted(layout.free[:-1]))
    assert not layout.blocked(np.array(layout.free, dtype=float), inflated=0.1).any()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#####/#GOO/#####", r"row 2 has 4 cells, row 1 has 5"),
        ("#####/OGOO#/#####", r"open border at row 2 column 1"),
        ("#####/#GOO#/##O##", r"open border at row 3 column 3"),
        ("#####/#OOO#/#####", r"no goal; mark one free cell with G"),
        ("#####/#GOG#/#####", r"has 2 goals"),
        ("#####/#GxO#/#####", r"row 2 column 3 is 'x'"),
        ("#####/#G#O#/#####", r"no way to the goal from row 2 column 4"),
        ("###/###", r"no goal"),
        ("/", r"is empty"),
        ("larg", r"no maze is called 'larg'; did you mean 'large'\? known are umaze, medium, large"),
        ("tiny", r"no maze is called 'tiny'; known are"),
    ],
)
def test_a_maze_that_cannot_be_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        Layout.of(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ((2.0, 1.0), "in the wall at row 3 column 2"),
        ((9.0, 1.0), "outside"),
        ((np.nan, 1.0), "outside"),
        ((1.0, 0.3), "wall"),
    ],
)
def test_a_goal_in_a_wall_is_refused(goal: tuple[float, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Layout.of("umaze", goal=goal)


def test_a_moved_goal_or_another_length_is_another_task() -> None:
    was = Layout.of("large")
    moved = Layout.of("large", goal=(3.0, 0.5))
    assert (moved.cell, moved.goal.tolist(), moved.references) == ((3, 1), [3.0, 0.5], None)
    assert moved.free == was.free
    assert moved.name == "large-goal-3-0.5"
    longer = Layout.of(was, horizon=900)
    assert (longer.horizon, longer.references, longer.name) == (900, None, "large-steps-900")
    assert Layout.of(was, goal=(7.0, 9.0), horizon=800) == was


def test_text_is_read_with_slashes_and_with_new_lines() -> None:
    one, other = Layout.of("#####/#G.O#/#####"), Layout.of("\n#####\n#G O#\r\n#####\n")
    assert one.free == other.free == ((1, 2), (1, 3), (1, 1))
    assert one.name.startswith("custom-")
    assert one.name != other.name
    assert Layout.of("#####/#OOO#/#####", goal=(1.0, 3.0), name="hall").cell == (1, 3)


def test_an_episode_lasts_fifty_steps_for_each_move_of_the_longest_way() -> None:
    assert Layout.of("#" * 9 + "/#GOOOOOO#/" + "#" * 9).horizon == 300
    assert Layout.of("####/#GO#/####").horizon == 100
    for name in ("umaze", "medium"):
        assert Layout.of("/".join(Layout.of(name).rows)).horizon in (Layout.of(name).horizon, 500)


@given(texts())
def test_ways_are_shortest_and_pass_through_free_neighbours(text: str) -> None:
    layout = Layout.of(text)
    routes = Routes(layout)
    moves = layout.moves_to(layout.cell)
    for cell in layout.free:
        way = routes.cells(cell, layout.cell)
        assert way[-1] == layout.cell
        assert len(way) == max(moves[cell], 1)
        if cell != layout.cell:
            for (r, c), (s, d) in zip([cell, *way], way, strict=False):
                assert abs(r - s) + abs(c - d) == 1
                assert not layout.walls[s, d]


def test_among_equal_ways_the_first_move_of_d4rl_is_taken() -> None:
    """Columns before rows, downwards in each first."""
    layout = Layout.of("#####/#OOO#/#OGO#/#OOO#/#####")
    routes = Routes(layout)
    for start, second in (((1, 1), (1, 2)), ((3, 3), (3, 2)), ((1, 3), (1, 2)), ((3, 1), (3, 2))):
        assert routes.cells(start, (2, 2))[0] == second
