"""D4RL's waypoint controller."""

from __future__ import annotations

import numpy as np
import pytest

from kedge.envs import Controller, Layout, Maze2D, Waypoints


def scores(maze: Maze2D, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Latched and raw."""
    engine, controller = maze.simulator(episodes), maze.controller()
    seeds = range(episodes)
    states, _ = engine.reset(seeds), controller.reset(seeds)
    rewards = np.empty((maze.horizon, episodes))
    for t in range(maze.horizon):
        states, rewards[t] = engine.step(controller.act(states))
    return maze.score((rewards.cumsum(0) > 0).sum(0).astype(float)), maze.score(rewards.sum(0))


@pytest.mark.parametrize(("name", "published"), [("umaze", 146), ("medium", 154), ("large", 204)])
def test_it_scores_what_it_does_in_d4rl(name: str, published: float) -> None:
    """The standard error of 400 episodes is about 2, and that of the figure itself is 3 to 4."""
    latched, raw = scores(Maze2D(name), 400)
    assert latched.std() / np.sqrt(400) < 2.5
    assert latched.mean() == pytest.approx(published, abs=4)
    assert raw.mean() == pytest.approx(latched.mean(), abs=0.5)  # once there, it stays


def by_hand(layout: Layout, states: np.ndarray, waypoints: list[np.ndarray], cell: np.ndarray) -> list[np.ndarray]:
    """One ball's thrusts, a step at a time, as D4RL has it."""
    target, at, was, actions = waypoints[-1], 0, cell, []
    for state in states:
        x, v = state[:2], state[2:]
        moved = float(np.linalg.norm(was - x))
        solved = float(np.linalg.norm(x - target)) < 0.1 and moved < 0.1
        waypoint = target if solved else waypoints[at]
        actions.append(np.clip(10 * (waypoint - x) - v, -1, 1))
        if not solved and float(np.linalg.norm(x - waypoint)) < 0.1 and moved < 0.1:
            at += 1
        was = x
    return actions


def test_it_is_d4rls_controller_step_by_step() -> None:
    maze = Maze2D("large")
    controller, engine = maze.controller(), maze.simulator(6)
    assert isinstance(controller, Controller)
    controller.reset(range(6))
    x = engine.reset(range(6))
    states, actions = [], []
    for _ in range(400):
        a = controller.act(x, np.ones(6, bool))
        states.append(x)
        actions.append(a)
        x, _ = engine.step(a)
    for ball in range(6):
        path = np.stack(states)[:, ball]
        cell = np.rint(path[0, :2])
        ways = list(controller._ways[ball])
        offsets = maze.layout.goal - np.stack(ways)
        np.testing.assert_array_equal(offsets[-1], 0)
        np.testing.assert_allclose(np.stack(actions)[:, ball], by_hand(maze.layout, path, ways, cell), atol=1e-12)


def test_waypoints_lie_up_to_a_fifth_below_their_cells_and_the_last_on_it() -> None:
    layout = Layout.of("large")
    controller = Waypoints(layout)
    controller.reset(range(200))
    controller.act(np.tile([1.0, 1.0, 0.0, 0.0], (200, 1)))
    way = np.array(controller._routes.cells((1, 1), layout.cell), dtype=float)
    below = way - controller._ways
    np.testing.assert_array_equal(below[:, -1], 0)
    inner = below[:, :-1]
    assert inner.min() >= 0
    assert inner.max() <= 0.2
    assert inner.mean() == pytest.approx(0.1, abs=4 * 0.2 / np.sqrt(12 * inner.size))
    assert inner.std() == pytest.approx(0.2 / np.sqrt(12), rel=0.03)


def test_a_balls_way_does_not_depend_on_its_neighbours() -> None:
    maze = Maze2D("medium")

    def drive(seeds: list[int]) -> np.ndarray:
        controller, engine = maze.controller(), maze.simulator(len(seeds))
        controller.reset(seeds)
        states = [engine.reset(seeds)]
        for _ in range(250):
            states.append(engine.step(controller.act(states[-1]))[0])
        return np.stack(states)

    np.testing.assert_array_equal(drive([4, 7, 1, 9])[:, [1, 3]], drive([7, 9]))


def test_a_goal_beside_the_cells_point_is_reached_too() -> None:
    maze = Maze2D("umaze", goal=(2.6, 2.75))
    engine, controller = maze.simulator(20), maze.controller()
    states, _ = engine.reset(range(20)), controller.reset(range(20))
    for _ in range(300):
        states, rewards = engine.step(controller.act(states))
    assert rewards.all()
    assert np.linalg.norm(states[:, :2] - [2.6, 2.75], axis=1).max() < 0.1


def test_a_ball_low_in_its_cell_finds_its_way() -> None:
    """At 0.4 its row rounds to that of the border."""
    controller = Waypoints(Layout.of("umaze"))
    controller.reset([0])
    controller.act(np.array([[0.42, 2.0, 0.0, 0.0]]))
    np.testing.assert_array_equal(controller._ways[0, -1], [1, 1])


def test_a_ball_that_is_sent_on_draws_a_new_way_and_one_sent_again_goes_on() -> None:
    layout = Layout.of("umaze")
    controller = Waypoints(layout)
    controller.reset([0])
    x = np.array([[3.0, 1.0, 0.0, 0.0]])
    controller.act(x)
    first = controller._ways.copy()
    controller.send(0, layout.cell)
    controller.act(x)
    np.testing.assert_array_equal(controller._ways, first)
    controller.send(0, (3, 2))
    controller.act(x)
    assert (controller._ways[0] == [3, 2]).all()
