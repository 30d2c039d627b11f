"""Walls that are drawn anywhere in a maze: they stop the ball, and whoever asks the map hears of them."""

from __future__ import annotations

import numpy as np
import pytest

from kedge.envs import Layout, Maze2D
from kedge.envs.demonstrations import settings
from kedge.envs.model import start
from kedge.envs.render import picture
from kedge.envs.waypoints import Routes
from kedge.errors import InputError
from kedge.run.recorded import base_name, environment_of, layout_from

ROOM = Layout.of("#######/#OOOOO#/#OOOOO#/#OOGOO#/#######")
BAR = (1.6, 1.4, 1.75, 4.6)  # below the first row, over columns 2 to 4


@pytest.mark.parametrize("speed", [0.0, 5.0])
@pytest.mark.parametrize(("column", "stops"), [(4.2, True), (5.0, False)])
def test_the_ball_stops_at_a_drawn_wall_and_passes_beside_it(column: float, stops: bool, speed: float) -> None:
    mazes = Maze2D(ROOM.with_walls([BAR])).simulator(1)
    here = mazes.place(np.array([[1.0, column, speed, 0.0]]))
    furthest = 0.0
    for _ in range(200):
        here, _ = mazes.step(np.array([[1.0, 0.0]]))
        furthest = max(furthest, here[0, 0])
    if stops:
        assert furthest < BAR[0] - 0.1 + 0.06, "the ball's radius is 0.1; at full speed it is pressed in for a step"
    else:
        assert furthest > 3.0


def test_the_map_knows_of_it() -> None:
    walled = ROOM.with_walls([BAR])
    inside, outside = np.array([1.7, 3.0]), np.array([1.7, 5.0])
    assert walled.blocked(inside)
    assert not walled.blocked(outside)
    assert not ROOM.blocked(inside)
    assert walled.crosses(np.array([1.0, 3.0]), np.array([2.0, 3.0]))
    assert len(walled.boxes) == len(ROOM.boxes) + 1
    assert ROOM.moves_to((3, 3))[1, 3] == 2
    assert walled.moves_to((3, 3))[1, 3] == 6, "round by the side"
    assert Routes(walled).cells((1, 3), (3, 3))[:2] in ([(1, 2), (1, 1)], [(1, 4), (1, 5)])
    beside = ROOM.with_walls([(1.7, 2.4, 2.3, 2.6)])  # both ways are two moves; the one to the right is preferred
    assert Routes(ROOM).cells((2, 2), (3, 3)) == [(2, 3), (3, 3)]
    assert Routes(beside).cells((2, 2), (3, 3)) == [(3, 2), (3, 3)]
    grey = picture(walled)[int(2.4 * 40), int(3.7 * 40)]
    assert (grey == picture(walled)[0, 0]).all(), "it is drawn in the walls' colour"


def test_walls_may_cut_the_goal_off_and_no_episode_begins_in_one() -> None:
    across = ROOM.with_walls([(1.5, 0.3, 1.7, 5.3)])
    assert (1, 1) not in across.moves_to(across.cell)
    with pytest.raises(InputError, match="no way leads from cell"):
        Routes(across).cells((1, 1), (3, 3))
    crowded = ROOM.with_walls([(0.3, 0.3, 1.3, 4.5)])
    assert (1, 2) in ROOM.free
    assert (1, 2) not in crowded.free
    begun = [start(crowded, np.random.default_rng(i))[:2] for i in range(50)]
    assert not crowded.blocked(np.array(begun), 0.1).any()


def test_another_maze_has_another_name_and_is_recorded_with_its_walls() -> None:
    large = Layout.of("large")
    walled = large.with_walls([(2.4, 2.8, 3.2, 3.0)])
    assert walled.name.startswith("large-walls-")
    assert walled.references is None
    assert base_name(f"maze2d-{walled.name}") == "large"
    assert walled.with_walls([]).name == "large"
    assert walled.with_walls([(1.4, 2.8, 1.6, 3.0)]).name != walled.name
    noted = environment_of(Maze2D(walled))
    read = layout_from(noted)
    assert read is not None
    assert (read.name, read.drawn, read.horizon) == (walled.name, walled.drawn, 800)
    assert noted is not None
    assert layout_from({**noted, "goal": [1.0]}) is None
    assert settings(walled, 100, 0) != settings(large, 100, 0)
    assert "drawn" not in settings(large, 100, 0), "the caches of mazes without any stay theirs"


@pytest.mark.parametrize("box", [(2, 1, 1, 2), (1, 1, 1.05, 2), (1, 1, float("nan"), 2)])
def test_walls_that_are_none(box: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="a drawn wall is"):
        ROOM.with_walls([box])


def test_an_opened_wall_is_a_way_and_the_maze_is_another_one() -> None:
    """A known maze, one cell of it open: shorter ways, a name of its own, and nothing of what was published."""
    large = Layout.of("large")
    opened = large.opened([(2, 2), (4, 4)])
    assert [bool(large.walls[cell]) for cell in ((2, 2), (4, 4))] == [True, True]
    assert {(2, 2), (4, 4)} == set(opened.free) - set(large.free)
    assert opened.moves_to((1, 2))[3, 2] == 2 < large.moves_to((1, 2))[3, 2]
    assert not opened.blocked(np.array([2.0, 2.0]), 0.1)
    assert opened.references is None
    assert opened.name == large.opened([(4, 4), (2, 2)]).name != large.opened([(2, 2)]).name
    assert opened.name.startswith("large-open-")
    assert large.opened([]) is large
    assert opened.goal.tolist() == large.goal.tolist()
    walled = large.with_walls([(2.4, 2.8, 3.2, 3.0)])
    assert walled.opened([(2, 2)]) == large.opened([(2, 2)]).with_walls(walled.drawn)
    assert base_name(f"maze2d-{walled.opened([(2, 2)]).name}") == "large"


def test_a_goal_in_a_drawn_wall_is_refused() -> None:
    with pytest.raises(InputError, match="lies in a wall that is drawn"):
        Layout.of(ROOM.with_walls([BAR]), goal=(1.7, 3.0))
