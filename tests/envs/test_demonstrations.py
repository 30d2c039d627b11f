"""Logged behaviour for the mazes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kedge.data
from kedge.envs import Layout, Maze2D, demonstrations
from kedge.envs.layout import BALL
from kedge.errors import InputError

KNOWN = pytest.mark.parametrize("name", Layout.known())


@KNOWN
def test_they_never_touch_a_wall_and_go_everywhere(name: str) -> None:
    maze = Maze2D(name)
    logs = maze.demonstrations(30_000, cache=False)
    positions = np.asarray(logs.observations[:, :2], dtype=float)
    assert not maze.layout.blocked(positions, inflated=BALL).any()
    assert {maze.layout.cell_of(point) for point in positions[::5]} == set(maze.layout.free)


def test_an_episode_is_what_its_actions_make_of_its_start() -> None:
    """The log is in float32: 1e-6 of rounding at the start, which an open loop over 300 steps adds to."""
    maze = Maze2D("large")
    logs = maze.demonstrations(6_500, seed=3, cache=False)
    assert logs.ends.tolist() == [2000, 4000, 6000, 6500]
    assert (len(logs), logs.dimensions) == (6_500, (4, 2))
    assert np.abs(logs.actions).max() == 1
    engine = maze.simulator(len(logs.ends))
    states = engine.place(logs.observations[logs.starts].astype(float))
    for t in range(300):
        np.testing.assert_allclose(states, logs.observations[logs.starts + t], atol=2e-5)
        states, rewards = engine.step(logs.actions[logs.starts + t])
        np.testing.assert_array_equal(rewards, logs.rewards[logs.starts + t])


def test_rewards_are_for_the_mazes_goal_alone() -> None:
    maze = Maze2D("umaze")
    logs = maze.demonstrations(20_000, cache=False)
    after = np.setdiff1d(np.arange(1, len(logs)), logs.ends)
    near = np.linalg.norm(logs.observations[after, :2] - maze.layout.goal, axis=1) <= 0.5
    np.testing.assert_array_equal(logs.rewards[after - 1] > 0, near)
    assert 0.05 < near.mean() < 0.5


def test_a_ball_that_arrives_is_sent_on_at_once_to_any_cell() -> None:
    """So it hardly ever rests, and passes the points of all cells."""
    maze = Maze2D("umaze")
    logs = maze.demonstrations(20_000, cache=False)
    speed = np.linalg.norm(logs.observations[:, 2:], axis=1)
    assert (speed < 0.1).mean() < 0.02
    at_point = np.linalg.norm(logs.observations[:, :2] - np.rint(logs.observations[:, :2]), axis=1) < 0.1
    cells = {tuple(cell) for cell in np.rint(logs.observations[at_point & (speed > 1), :2]).astype(int).tolist()}
    assert cells == set(maze.layout.free)


def test_the_same_seed_is_the_same_data_and_another_is_not() -> None:
    maze = Maze2D("umaze")
    one, same, other = (maze.demonstrations(600, seed=seed, cache=False) for seed in (1, 1, 2))
    assert one.digest == same.digest != other.digest
    more = maze.demonstrations(2_600, seed=1, cache=False)
    np.testing.assert_array_equal(more.observations[:600], one.observations)  # an episode depends on its own number


def test_the_cache_is_opened_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maze = Maze2D("umaze")
    first = maze.demonstrations(2_500, cache=tmp_path)
    assert first.provenance["settings"]["seed"] == 0
    assert "not D4RL's files" in first.provenance["source"]

    def again(*_: object) -> None:
        raise AssertionError("driven again")

    monkeypatch.setattr(demonstrations, "_drive", again)
    second = maze.demonstrations(2_500, cache=str(tmp_path))
    assert second.digest == first.digest
    assert isinstance(second, kedge.data.Trajectories)
    monkeypatch.setenv("KEDGE_CACHE", str(tmp_path))
    assert maze.demonstrations(2_500).digest == first.digest
    for other, steps, seed in (
        (Maze2D("medium"), 2_500, 0),
        (maze, 2_501, 0),
        (maze, 2_500, 1),
        (Maze2D(replace(maze.layout, at=(1.0, 2.0))), 2_500, 0),
        (Maze2D(replace(maze.layout, steps=100)), 2_500, 0),
    ):
        with pytest.raises(AssertionError, match="driven again"):
            other.demonstrations(steps, seed, cache=tmp_path)


def test_what_the_numbers_depend_on_names_the_cache() -> None:
    layout = Layout.of("umaze")
    made = demonstrations.settings(layout, 1000, 0)
    prints = {demonstrations.fingerprint(made | {name: "other"}) for name in made}
    assert len(prints | {demonstrations.fingerprint(made)}) == len(made) + 1
    assert demonstrations.fingerprint(dict(reversed(made.items()))) == demonstrations.fingerprint(made)


def test_a_run_that_dies_leaves_no_cache(tmp_path: Path) -> None:
    calls = []

    def dies(done: int, total: int) -> None:
        calls.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Maze2D("umaze").demonstrations(2_500, cache=tmp_path, progress=dies)
    assert calls == [(100, 4000)]
    assert list(tmp_path.iterdir()) == []
    assert len(Maze2D("umaze").demonstrations(2_500, cache=tmp_path)) == 2_500


def test_no_cache_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDGE_CACHE", str(tmp_path))
    assert len(Maze2D("umaze").demonstrations(10, cache=False)) == 10
    assert list(tmp_path.iterdir()) == []


def test_no_steps_are_refused() -> None:
    with pytest.raises(InputError, match="at least one step, not 0"):
        Maze2D("umaze").demonstrations(0, cache=False)
