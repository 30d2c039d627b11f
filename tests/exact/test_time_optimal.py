"""The quickest way to a maze's goal."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from kedge.envs import Layout, Maze2D
from kedge.exact import time_optimal
from kedge.exact.time_optimal import SPEED, THRUST, TimeOptimal, optimal_score

RANGES = {"umaze": (166, 168), "medium": (188, 190), "large": (251, 254)}


@pytest.fixture(scope="module")
def coarse() -> dict[str, TimeOptimal]:
    return {name: TimeOptimal(Layout.of(name), 3) for name in Layout.known()}


@pytest.mark.parametrize("name", Layout.known())
def test_the_coarse_line_is_within_a_stage_of_the_fine_one(coarse: dict[str, TimeOptimal], name: str) -> None:
    """A coarser lattice may lose up to a quarter of a stage at the goal, and rounds the start by its spacing."""
    lattice = coarse[name]
    score = Maze2D(name).score(np.array([0.0, (lattice.stage / 4 + lattice.spacing / SPEED) / 0.01]))
    assert RANGES[name][0] - (score[1] - score[0]) < lattice.score < RANGES[name][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", Layout.known())
@pytest.mark.parametrize("levels", [4, 5])
def test_the_line_is_where_it_is(name: str, levels: int) -> None:
    assert RANGES[name][0] < TimeOptimal(Layout.of(name), levels).score < RANGES[name][1]


@pytest.mark.parametrize("levels", [3, 4])
def test_a_corridor_takes_what_the_formula_says(levels: int) -> None:
    """From rest: v / A to reach full speed over v^2 / 2 A, then the rest of the way at full speed. The lattice finds it
    but for the quarter of a stage at the goal, and the start's rounding."""
    lattice = TimeOptimal(Layout.of("############/#OOOOOOOOOG#/############"), levels)
    way = 10 - 1 - 0.5
    wanted = (SPEED / THRUST + (way - SPEED**2 / (2 * THRUST)) / SPEED) / 0.01
    steps = float(lattice.steps(np.array([1.0, 1.0, 0.0, 0.0])))
    slack = (lattice.stage / 4 + 2 * lattice.spacing / SPEED) / 0.01 + 1
    assert abs(steps - wanted) < slack
    assert float(lattice.steps(np.array([1.0, 10.0, 0.0, 0.0]))) == 1
    flying = float(lattice.steps(np.array([1.0, 1.0, 0.0, 5.2])))
    assert abs(flying - way / SPEED / 0.01) < slack
    away = float(lattice.steps(np.array([1.0, 4.0, 0.0, -5.2])))
    assert abs(away - (2 * SPEED / THRUST + (10 - 4 - 0.5) / SPEED) / 0.01) < slack  # braking, back to there, onwards


HALL = "#######/#OOOOO#/#OOOOO#/#OOGOO#/#OOOOO#/#OOOOO#/#######"


@pytest.mark.parametrize(("text", "N", "near"), [("umaze", 2, np.inf), (HALL, 1, 1.5)], ids=["umaze", "hall"])
def test_every_state_obeys_bellmans_equation(text: str, N: int, near: float) -> None:
    """Forward, state by state, with the walls asked directly: V = min over thrusts of what is left after a stage.

    In the hall for fast states close to the goal: some fly through it within a stage, with neither end in it.
    """
    layout = Layout.of(text)
    lattice = TimeOptimal(layout, N)
    V, d, tau = lattice.seconds, lattice.spacing, lattice.stage
    rng = np.random.default_rng(0)
    finite = np.argwhere(np.isfinite(V) & (V > 0))
    close = np.linalg.norm(finite[:, :2] * d - 0.7 - layout.goal, axis=1) < near
    fast = (np.abs(finite[:, 2:] - N) == N).any(1)
    finite = finite[close & (fast | (near == np.inf))]
    open_states = [tuple(finite[i]) for i in rng.permutation(len(finite))[:400]]
    for i, j, k, m in open_states:
        best = np.inf
        for u, w in product((-1, 0, 1), repeat=2):
            kk, mm = k + u, m + w
            if not (0 <= kk <= 2 * N and 0 <= mm <= 2 * N):
                continue
            f = np.arange(5) / 4
            moved = np.stack([2 * (k - N) * f + u * f * f, 2 * (m - N) * f + w * f * f], 1)
            places = (
                np.array([i, j]) + np.rint(4 * moved) / 4
            ) * d - 0.7  # on the map of the walls, four times as fine
            if layout.blocked(places, inflated=0.1).any():
                continue
            there = ((places - layout.goal) ** 2).sum(1) <= 0.25
            if there.any():
                best = min(best, tau * f[there.argmax()])
            ii, jj = i + 2 * (k - N) + u, j + 2 * (m - N) + w
            best = min(best, tau + V[ii, jj, kk, mm])
        assert V[i, j, k, m] == pytest.approx(best, rel=1e-5)
    # what cannot be reached is in the wall, about to hit it, or of the parity that is left out
    standing = V[..., N, N][::2, ::2]
    points = np.stack(np.meshgrid(*(np.arange(size) * d - 0.7 for size in V.shape[:2]), indexing="ij"), -1)[::2, ::2]
    even = (np.indices(V.shape[:2]) % 2 == 0).all(0)[::2, ::2]
    np.testing.assert_array_equal(np.isfinite(standing)[even], ~layout.blocked(points, inflated=0.1)[even])


@pytest.mark.parametrize("name", Layout.known())
def test_no_episode_of_the_controller_is_quicker(coarse: dict[str, TimeOptimal], name: str) -> None:
    """A score above the line is a mistake in the environment. A stage of slack for the lattice."""
    maze, lattice = Maze2D(name), coarse[name]
    engine, controller = maze.simulator(100), maze.controller()
    states, _ = engine.reset(range(100)), controller.reset(range(100))
    least = lattice.steps(states)
    first = np.full(100, np.inf)
    for t in range(1, maze.horizon + 1):
        states, rewards = engine.step(controller.act(states))
        first = np.minimum(first, np.where(rewards > 0, t, np.inf))
    assert (first >= least - lattice.stage / 0.01).all()
    assert (first - least).mean() > 10


def test_the_score_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.of("umaze")
    score = optimal_score(layout, 2, tmp_path)
    assert score == TimeOptimal(layout, 2).score
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]
    monkeypatch.setattr(time_optimal, "_search", None)
    assert optimal_score(layout, 2, tmp_path) == score
    for other, levels in ((layout, 3), (Layout.of("umaze", horizon=200), 2), (Layout.of("umaze", goal=(1.0, 2.0)), 2)):
        with pytest.raises(TypeError):
            optimal_score(other, levels, tmp_path)


def test_a_lattice_without_speed_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one level of speed, not 0"):
        TimeOptimal(Layout.of("umaze"), 0)
