"""What all planners are measured on: a job for each, changes that can be made, and a page at any moment."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kedge import recipes
from kedge.envs import Maze2D
from kedge.recipes import FV

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "docs")]
planners: Any = importlib.import_module("measure.planners")
planning: Any = importlib.import_module("measure.planning")
jobs: Any = importlib.import_module("measure.jobs")
drawn: Any = importlib.import_module("drawn")
drawn_planners: Any = importlib.import_module("drawn_planners")


def test_each_arm_has_a_job_in_each_change_that_it_speaks_to() -> None:
    made = planners.jobs(planning.FULL)
    assert len({job.name for job in made}) == len(made)
    for name, arm in planners.ARMS.items():
        of_arm = [job for job in made if job.settings.get("arm") == name]
        assert len(of_arm) == len(arm.among) * (3 if arm.recipe else 1)
        assert arm.recipe in (None, "cloned") or hasattr(recipes, arm.recipe)
    trained = {json.dumps(job.settings["fields"]) for job in made if job.settings.get("recipe") == "FV"}
    assert len(trained) == 1  # what is made of FV when it acts shares one training a seed


def test_every_change_leaves_the_goal_within_reach_and_another_name() -> None:
    mazes = {name: planners.maze_of({"maze": "large", "changes": how}) for name, how in planners.CHANGES.items()}
    assert len({maze.name for maze in mazes.values()}) == len(mazes)
    closed = mazes["walls"].layout
    assert set(closed.free) == set(closed.moves_to(closed.cell))
    assert [maze.violations(np.zeros((1, 1, 2))) is None for maze in mazes.values()] == [True, True, False, False, True]


def test_the_one_with_the_map_goes_round_and_out() -> None:
    maze = planners.maze_of({"maze": "large", "changes": planners.CHANGES["zone"]})
    agent = planners.shortest(None, maze)
    x0, y0, x1, y1 = planners.ZONE
    way = agent.plan(np.array([3.0, 6.0, 0.0, 0.0])).trajectory[0, :, :2]
    assert not ((way > (x0, y0)) & (way < (x1, y1))).all(1).any()
    inside = agent.plan(np.array([5.0, 7.0, 0.0, 0.0])).trajectory[0]
    assert np.isfinite(inside).all()


def test_a_training_that_is_there_is_copied(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(planners, "ROOT", tmp_path)
    fields = jobs.plain(asdict(FV(steps=3)))  # the run is older than most of them
    shared = {"recipe": "FV", "fields": fields, "seed": 1, "maze": "large", "demonstrations": 9}
    there = tmp_path / "runs" / "bench-align" / "began-1-ab" / "run"
    there.mkdir(parents=True)
    told = {"recipe": "FV", "fields": {"steps": 3}, "seed": 1, "task": "maze2d-large", "data": {"steps": 9}}
    (there / "recipe.json").write_text(json.dumps(told))
    planners.lent(tmp_path / "a", shared)
    assert not (tmp_path / "a").exists()  # it is not finished
    (there / "weights.safetensors").write_text("")
    planners.lent(tmp_path / "b", shared | {"demonstrations": 10})
    assert not (tmp_path / "b").exists()
    planners.lent(tmp_path / "c", shared)
    assert (tmp_path / "c" / "weights.safetensors").is_file()


def test_zones_at_random_are_counted(tmp_path: Path) -> None:
    job = jobs.Job("fuzz", {"kind": "fuzz", "zones": 30})
    found = planners.fuzz(job, None)
    assert found["zones"] == 30
    assert found["crossed"] == found["out"] + found["left"] > 0
    assert found["worst"] <= 1e-4
    zones = planners.random_zone(np.random.default_rng(1))
    assert torch.isfinite(zones.missed(planners.random_way(np.random.default_rng(1)))).all()


def result(arm: str, change: str, seed: int, score: float) -> dict[str, Any]:
    of_arm = {"arm": arm, "change": change, "seed": seed, "fields": {"steps": 9}}
    return {
        "job": f"{arm}-{change}-{seed}",
        "settings": {"kind": "planned", "scale": "full", **of_arm},
        "commit": "0123456789ab and changes", "when": "2026-01-01T00:00:00+00:00",
        "machine": {"cores": 2, "cpu": "a cpu"},
        "training": None if arm == "astar" else {"wall": 120.0 + seed, "steps": 9 - seed},
        "outcome": {"planning": {"seconds_per_plan": 0.01}},
        "score": [score] * 4, "solved": [1, 1, 0, 1],
        "violations": [0.0, 0.5, 0.0, 0.0] if change == "zone" else None,
    }  # fmt: skip


def test_the_page_can_be_drawn_at_any_moment(tmp_path: Path, monkeypatch: Any) -> None:
    page = tmp_path / "drawn"
    page.mkdir()
    monkeypatch.setattr(drawn, "DRAWN", page)
    drawn_planners.draw(tmp_path)
    assert all(file.read_text() == drawn.NOTHING for file in page.iterdir())
    made = [result("fv", "plain", seed, 100.0 + seed) for seed in range(3)]
    made += [result("fv", "zone", 0, 90.0), result("astar", "plain", 0, 200.0), result("new", "plain", 0, 50.0)]
    for one in made:
        (tmp_path / f"{one['job']}.json").write_text(json.dumps(one))
    drawn_planners.draw(tmp_path)
    scores = (page / "planners_scores.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in scores[2:]] == [
        drawn_planners.ARMS["astar"], drawn_planners.ARMS["fv"], "new",
    ]  # fmt: skip
    assert "| 101 [100, 102] |" in scores[3]
    assert "(1 seed)" in scores[2]
    assert "12.5 " in (page / "planners_broken.md").read_text()
    assert "| 10 | 2.0 |" in (page / "planners_times.md").read_text()
    assert Maze2D("large").name == "maze2d-large"
