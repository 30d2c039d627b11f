"""The privileged planner: as short as cells allow, inside them, and to the goal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import kedge
from kedge.data import Normaliser
from kedge.envs.layout import WALL_OFFSET, Layout
from kedge.errors import InputError
from kedge.plan import Agent, Chase, Judge, Proposer, ShortestPath
from kedge.plan.proposer import candidate_seeds


def plans_from(proposer: ShortestPath, states: np.ndarray) -> np.ndarray:
    here = torch.from_numpy(states).float()
    return proposer.propose(here, candidate_seeds(np.arange(len(states)), 0, 2)).numpy()


def middles(layout: Layout) -> np.ndarray:
    """At rest in the middle of each free cell but the goal's."""
    cells = np.array([cell for cell in layout.free if cell != layout.cell]) - WALL_OFFSET
    return np.concatenate([cells, np.zeros_like(cells)], 1)


@pytest.mark.parametrize("name", ["umaze", "large"])
def test_ways_are_shortest_and_free(name: str) -> None:
    """As long as the moves between, but for the last stretch to the goal's own point; no point or segment in a wall."""
    layout = Layout.of(name)
    proposer = ShortestPath(layout, horizon=700, stride=1)
    assert isinstance(proposer, Proposer)
    starts = middles(layout)
    found = plans_from(proposer, starts)
    assert np.array_equal(found[:, 0], found[:, 1])
    points = found[:, 0, :, :2].astype(float)
    np.testing.assert_allclose(points[:, 0], starts[:, :2], atol=1e-6)
    np.testing.assert_allclose(points[:, -1], np.broadcast_to(layout.goal, (len(points), 2)), atol=1e-6)
    lengths = np.linalg.norm(np.diff(points, axis=1), axis=-1).sum(1)
    moves = layout.moves_to(layout.cell)
    expected = np.array([moves[layout.cell_of(x)] for x in starts[:, :2]])
    # a point that is left out at a corner shortens the way by less than a step's length
    assert (lengths < expected + 0.3).all()
    assert (lengths > expected - 0.3 - 0.035 * 40).all()
    assert not layout.blocked(points, 0.09).any()
    assert not layout.crosses(points[:, :-1], points[:, 1:]).any()


def test_points_lie_a_stride_of_speed_apart_and_rest_at_the_goal() -> None:
    layout = Layout.of("#######/#OOOOG#/#######")
    state = np.array([[0.8, 0.8, 0.3, -0.2]])
    plan = plans_from(ShortestPath(layout, horizon=12, stride=10, speed=0.05), state)[0, 0]
    np.testing.assert_allclose(np.diff(plan[:6, 1]), 0.5, atol=1e-5)
    np.testing.assert_allclose(plan[0], state[0], atol=1e-6)
    np.testing.assert_allclose(plan[-1], [1, 5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(plan[3, 3], 5.0, atol=1e-3)  # .5 m in 10 steps of .01 s


def test_at_the_goal_it_stays() -> None:
    layout = Layout.of("umaze")
    plan = plans_from(ShortestPath(layout), np.array([[*layout.goal, 0.0, 0.0]]))[0, 0]
    np.testing.assert_allclose(plan[:, :2], np.broadcast_to(layout.goal, (32, 2)), atol=1e-6)


def test_a_wall_is_no_place_to_start_from() -> None:
    with pytest.raises(InputError, match=r"no way leads out of a wall, at \(0, 0\)"):
        plans_from(ShortestPath(Layout.of("umaze")), np.zeros((1, 4)))


def test_it_beats_the_controller_that_made_the_data() -> None:
    maze: Any = kedge.envs.Maze2D("umaze")
    judge = Judge(None, Normaliser(torch.zeros(4), torch.ones(4)))
    agent = Agent(ShortestPath(maze.layout), judge, Chase(), candidates=1, replan=15, name="astar")
    settings: dict[str, Any] = {"episodes": 20, "first_seed": 0, "stop_when_solved": True}
    ours = kedge.evaluate(agent, maze, **settings)
    theirs = kedge.evaluate(maze.controller(), maze, **settings)
    assert ours.label == "astar"
    assert (ours.solved_at >= 0).all()
    assert ours.latched_score.mean() > theirs.latched_score.mean() + 3
