"""Arms that are fine-tuned are compared at equal steps of the environment, from the same beginning."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from kedge.envs import Maze2D
from kedge.train import Tick

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))
finetuned: Any = importlib.import_module("measure.finetuned")
planning: Any = importlib.import_module("measure.planning")


def test_arms_differ_in_their_method_alone() -> None:
    jobs = finetuned.jobs(planning.FULL)
    assert len({job.name for job in jobs}) == len(jobs) == finetuned.SEEDS * len(finetuned.ARMS)
    own = ("arm", "method", "seed")
    shared = [{name: value for name, value in job.settings.items() if name not in own} for job in jobs]
    assert all(settings == shared[0] for settings in shared)
    assert finetuned.BUILDERS.keys() == finetuned.ARMS.keys()


def test_each_arm_learns_by_its_own_method() -> None:
    """From the same clone, which stays as it is."""
    settings = finetuned.jobs(planning.SMOKE)[0].settings
    settings |= {"clone": settings["clone"] | {"chunk": 50}, "budget": settings["budget"] | {"copies": 2}}
    maze = Maze2D("umaze")
    policy = finetuned.cloned(settings, maze.demonstrations(steps=4000, seed=0, cache=False))
    for arm, method in finetuned.ARMS.items():
        learner = finetuned.BUILDERS[arm](policy, maze, settings | {"arm": arm, "method": method})
        batch = learner.source.next(Tick(0, 0))
        assert 0 < learner.steps() <= 2 * maze.horizon
        earned = batch["reward"] if isinstance(batch, dict) else batch.reward
        for part in learner.parts:
            loss, _ = part.loss(batch, Tick(0, 0))
            assert loss.shape == earned.shape
        trained = {part.module for part in learner.parts}
        assert policy.walk.denoiser not in trained
