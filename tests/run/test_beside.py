"""The rows beside a score: the same starts, the run's own critic and follower, other candidates."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kedge.data import Normaliser, Segments, Trajectories
from kedge.envs import Layout, Maze2D
from kedge.errors import InputError
from kedge.plan import Agent, Chase, Judge, NearestSegments, ShortestPath
from kedge.run.beside import ROWS, Known, Row, beside, kept, nearest, shortest
from kedge.run.recorded import environment_of
from kedge.run.scores import Scores

MAZE = Maze2D("#####/#OGO#/#####", horizon=60)


def logged() -> Trajectories:
    """Logs in a corridor, of one episode that goes right, and one that goes left."""
    column = np.concatenate([np.linspace(1, 3, 40), np.linspace(3, 1, 40)])
    states = np.stack([np.full(80, 1.0), column, np.zeros(80), np.repeat([0.05, -0.05], 40)], 1)
    rewards = (np.abs(column - 2) < 0.2).astype(float)
    return Trajectories.of(observations=states, actions=np.zeros((80, 2)), rewards=rewards, ends=np.array([40, 80]))


def critic(plans: torch.Tensor) -> torch.Tensor:
    """Likes plans that end near the goal."""
    return -(plans[:, -1, 1] - 2).abs()


@dataclass(frozen=True)
class Nowhere:
    """Proposes to stay."""

    horizon: int = 6
    stride: int = 5

    def propose(self, states: torch.Tensor, seeds: torch.Tensor, *others: Any, **more: Any) -> torch.Tensor:
        return states[:, None, None].expand(-1, seeds.shape[1], self.horizon, -1).clone()


def agent() -> Agent:
    plain = Normaliser(torch.zeros(4), torch.ones(4))
    return Agent(Nowhere(), Judge(critic, plain), Chase(ahead=10), candidates=5, replan=7, keep=False, name="FV")


def silent(title: str) -> AbstractContextManager[None]:
    return nullcontext()


def test_nearest_differs_from_the_agent_in_its_candidates_alone() -> None:
    mine = agent()
    found = nearest(Known(MAZE, mine, logged))
    assert isinstance(found.proposer, NearestSegments)
    for field in fields(Agent):
        assert field.name in ("proposer", "name") or getattr(found, field.name) is getattr(mine, field.name)
    assert (found.proposer.horizon, found.proposer.stride) == (6, 5)
    here = torch.tensor([[1.0, 1.02, 0.0, 0.05]])
    (plans,) = found.proposer.propose(here, torch.zeros(1, 3, dtype=torch.int64))
    assert torch.equal(plans[:, 0], here.expand(3, -1))  # begins where we are
    windows = Segments(logged(), 6, 5, 1, until="reward", rest=(2, 3), fields=["states"]).at(np.array([0, 1, 2]))
    assert torch.equal(plans[:, 1:].sort(0).values, windows["states"][:, 1:].sort(0).values)


def test_windows_end_with_their_episode_where_nothing_was_rewarded() -> None:
    logs = logged()
    logs.columns["rewards"][:] = 0  # pyright: ignore[reportIndexIssue]
    assert nearest(Known(MAZE, agent(), lambda: logs)).proposer.segments.until == "episode"


def test_the_shortest_path_is_the_only_candidate_of_its_row() -> None:
    mine = agent()
    found = shortest(Known(MAZE, mine, logged))
    assert isinstance(found.proposer, ShortestPath)
    assert found.proposer.layout is MAZE.layout
    assert (found.proposer.horizon, found.proposer.stride, found.candidates) == (6, 5, 1)
    assert (found.judge, found.follower, found.replan, found.keep) == (mine.judge, mine.follower, 7, False)


def test_all_four_rows_are_measured_on_the_same_starts_and_stored(tmp_path: Path) -> None:
    rows = beside(tmp_path, MAZE, agent(), 3, 40, silent, logs=logged)
    assert [row.key for row in rows] == ["controller", "nearest", "astar", "optimal"]
    latched = {row.key: row.latched["mean"] for row in rows if row.latched}
    # The search knows the best on its lattice, which in so short a corridor may be two steps off.
    assert latched["optimal"] + 100 * 2 / MAZE.horizon >= max(latched["controller"], latched["astar"]) > 0
    assert latched["nearest"] > 0
    for key in ("controller", "nearest", "astar"):
        scores = Scores.load(tmp_path / "baselines" / key)
        assert scores.seeds.tolist() == [40, 41, 42]
        assert scores.label == ROWS[key].label
    assert "knows the map" in rows[2].line
    assert "knows the map and the physics" in rows[3].line
    assert rows[1].line.startswith("beside it: nearest logged segments, same critic and follower, latched ")


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    rows = beside(tmp_path, MAZE, agent(), 2, 40, silent, logs=lambda: "the file is gone")
    assert rows[1] == Row("nearest", ROWS["nearest"].label, "not measured: the file is gone")
    assert rows[1].json() == {
        "label": ROWS["nearest"].label,
        "latched": None,
        "missing": "not measured: the file is gone",
    }
    assert not (tmp_path / "baselines" / "nearest").exists()
    assert [row.key for row in rows if row.latched] == ["controller", "astar", "optimal"]


def test_rows_are_kept_unless_starts_or_weights_are_others(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.touch()

    def measured(episodes: int = 2, first_seed: int = 40, kept: Path | None = weights) -> list[str]:
        titles: list[str] = []
        beside(
            tmp_path, MAZE, agent(), episodes, first_seed,
            lambda title: titles.append(title) or nullcontext(), logs=logged, weights=kept,
        )  # fmt: skip
        return [title.removeprefix("beside it: ").split()[0] for title in titles]

    assert measured() == ["the", "nearest", "A*"]
    optimal = (tmp_path / "baselines/optimal/evaluation.json").stat().st_mtime_ns
    assert measured() == []
    assert (tmp_path / "baselines/optimal/evaluation.json").stat().st_mtime_ns == optimal
    assert measured(kept=None) == ["nearest", "A*"]
    later = (tmp_path / "baselines/astar/evaluation.json").stat().st_mtime_ns + 10
    os.utime(weights, ns=(later, later))
    assert measured() == ["nearest", "A*"]
    assert measured(first_seed=41) == ["the", "nearest", "A*"]
    assert (tmp_path / "baselines/optimal/evaluation.json").stat().st_mtime_ns != optimal
    assert measured(episodes=3, first_seed=41) == ["the", "nearest", "A*"]


def test_rows_are_known_by_what_was_noted_of_the_agent_and_by_what_the_maze_looks_like(tmp_path: Path) -> None:
    notes = {"agent": "abc", "device": "cpu"}

    def measured(notes: dict[str, Any], maze: Maze2D = MAZE, fresh: bool = False) -> list[str]:
        titles: list[str] = []
        optimal = tmp_path / "baselines/optimal/evaluation.json"
        before = optimal.stat().st_mtime_ns if optimal.exists() else 0
        beside(
            tmp_path, maze, agent(), 2, 40, lambda title: titles.append(title) or nullcontext(), logs=logged,
            notes=notes, fresh=fresh,
        )  # fmt: skip
        made = [title.removeprefix("beside it: ").split()[0] for title in titles]
        return made + (["optimal"] if optimal.stat().st_mtime_ns != before else [])

    everything = ["the", "nearest", "A*", "optimal"]
    assert measured(notes) == everything
    assert json.loads((tmp_path / "baselines/nearest/evaluation.json").read_text())["agent"] == "abc"
    assert "agent" not in json.loads((tmp_path / "baselines/controller/evaluation.json").read_text())
    assert measured(notes) == []
    assert measured(notes, fresh=True) == everything
    assert measured(notes | {"overrides": {"candidates": 3}}) == ["nearest", "A*"]
    assert measured(notes) == ["nearest", "A*"]
    (tmp_path / "baselines/nearest/episodes.csv").write_text("broken")
    assert measured(notes) == ["nearest"]
    other = Maze2D(replace(Layout.of("#####/#GOO#/#####", horizon=60), name=MAZE.layout.name))
    assert other.name == MAZE.name
    assert measured(notes, other) == everything


def test_rows_of_earlier_versions_that_do_not_tell_their_maze_go_by_its_name(tmp_path: Path) -> None:
    beside(tmp_path, MAZE, agent(), 2, 40, silent, logs=logged)
    said = tmp_path / "baselines/controller/evaluation.json"
    words = json.loads(said.read_text())
    assert words.pop("environment") == environment_of(MAZE)
    said.write_text(json.dumps(words))
    assert kept(said.parent, MAZE, 2, 40) is not None
    assert kept(said.parent, MAZE, 2, 41) is None
    assert kept(said.parent, MAZE, 2, 40, {"agent": "abc"}) is None


@pytest.mark.parametrize("make", [nearest, shortest])
def test_an_agent_of_another_kind_has_no_such_rows(make: Any) -> None:
    assert make(Known(MAZE, object(), logged)) == "the run plans in another way"


def test_a_row_that_finds_no_room_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines" / "optimal").touch()
    with pytest.raises(InputError, match=r"optimal could not be written \(File exists\)"):
        beside(tmp_path, MAZE, agent(), 2, 40, silent, logs=logged)
