"""Trains planners and evaluates them: the headline, what stands beside it, and learning curves."""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kedge.data import Trajectories
from kedge.envs import Maze2D
from kedge.plan import Agent
from kedge.recipes import load
from kedge.recipes.landscape import Landscape, measure
from kedge.recipes.networks import critic
from kedge.recipes.planning import Planning
from kedge.recipes.training import Training
from kedge.run.beside import FOLDER, beside
from kedge.run.evaluate import evaluate
from kedge.run.scores import Scores
from measure.jobs import Job, Store, written
from measure.planning import recipe

Settings = dict[str, Any]


def logged(settings: Settings, store: Store) -> tuple[Maze2D, Trajectories]:
    """The maze and its demonstrations; the first process that wants them makes them, the others wait."""
    maze = Maze2D(settings["maze"])
    with store.held(f"demonstrations-{maze.name}", wait=True):
        return maze, maze.demonstrations(steps=settings["demonstrations"], seed=0)


# The headline


def headline(job: Job, store: Store) -> dict[str, Any]:
    """The default recipe, trained and evaluated as a user would."""
    settings = job.settings
    maze, logs = logged(settings, store)
    run, begun = store.work(job) / "run", time.process_time()
    agent = recipe(settings).train(logs, run=run, seed=settings["seed"], progress=False, task=maze.name)
    cpu = time.process_time() - begun
    scores = evaluate(agent, maze, episodes=settings["episodes"], first_seed=settings["first_seed"])
    return {
        "said": said(scores),
        "training": {"wall": _last(run / "metrics.csv", "seconds"), "cpu": cpu},
        "outcome": outcome(scores),
        "landscape": _columns(run / "landscape.csv"),
    }


def rows_beside(job: Job, store: Store) -> dict[str, Any]:
    """Who else could have had that score, on the same starts. The planner is that of the first seed."""
    settings: Settings = {**job.settings, "kind": "headline"}
    owner = Job(f"headline-fv-{settings['maze']}-{settings['seed']}", settings)
    maze, logs = logged(settings, store)
    run = store.work(owner) / "run"
    with store.held(owner.name, wait=True):
        recipe(settings).train(logs, run=run, seed=settings["seed"], progress=False, task=maze.name)
    found = beside(
        store.work(job), maze, load(run), settings["episodes"], settings["first_seed"], lambda _: nullcontext(),
        logs=lambda: logs, weights=run / "weights.safetensors",
    )  # fmt: skip
    rows = []
    for row in found:
        folder = store.work(job) / FOLDER / row.key
        kept = (folder / "episodes.csv").is_file()
        rows.append(
            {"key": row.key, "label": row.label, "said": row.said, "latched": row.latched}
            | ({"outcome": outcome(Scores.load(folder))} if kept else {})
        )
    return {"said": "; ".join(f"{row['key']} {row['said']}" for row in rows), "rows": rows}


# Learning curves


@dataclass
class Kept:
    """What a curve has so far: it goes on from there when its process was killed."""

    path: Path
    wall: float
    cpu: float
    checkpoints: list[dict[str, Any]]

    @classmethod
    def of(cls, path: Path) -> Kept:
        """As it was left."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, found["wall"], found["cpu"], found["checkpoints"])
        except (OSError, ValueError, KeyError):
            return cls(path, 0.0, 0.0, [])

    def save(self) -> None:
        """Whole or not at all."""
        written(self.path, {"wall": self.wall, "cpu": self.cpu, "checkpoints": self.checkpoints})


def curve(job: Job, store: Store) -> dict[str, Any]:
    """One training, looked at on the way. What is looked at are averaged copies; the training does not notice."""
    settings = job.settings
    maze, logs = logged(settings, store)
    training = Training(
        recipe(settings), logs, store.work(job) / "run", seed=settings["seed"], progress=False, task=maze.name,
        **settings.get("where", {}),
    )  # fmt: skip
    if training.trainer.step == 0:
        same_critic(training, settings["seed"])
    kept = Kept.of(store.work(job) / "kept.json")
    followed(training, kept, settings["checkpoints"], lambda: looked_at(training, maze, settings, kept))
    return {
        "said": _said_of(kept.checkpoints[-1]),
        "parameters": {name: _size(module) for name, module in training.models.trained().items()},
        "figures": training.trainer.row,
        "checkpoints": kept.checkpoints,
    }


def followed(training: Any, kept: Kept, checkpoints: Sequence[int], look: Callable[[], dict[str, Any]]) -> None:
    """Trains from one checkpoint to the next, and looks at each; what has been looked at is left alone."""
    for step in checkpoints:
        if step <= training.trainer.step and any(point["step"] == step for point in kept.checkpoints):
            continue
        kept.checkpoints = [point for point in kept.checkpoints if point["step"] < step]
        advance(training, step, kept)
        with torch.random.fork_rng(devices=[]):
            kept.checkpoints.append(look())
        kept.save()


def advance(training: Any, step: int, kept: Kept) -> None:
    """Trains up to a step, and saves there; a run that is there already is left alone."""
    trainer = training.trainer
    if trainer.step >= step:
        return
    wall, cpu = time.perf_counter(), time.process_time()
    while trainer.step < step:
        trainer.advance()
    kept.wall += time.perf_counter() - wall
    kept.cpu += time.process_time() - cpu
    trainer.save()
    kept.save()


def same_critic(training: Training, seed: int) -> None:
    """Begins the critic with weights that follow from the seed alone. (They are drawn after the planner's, so that
    they would differ between planners that draw more or less.) It hears the same batches in all arms, so that it
    remains the same, bit for bit, and arms differ in their planners only.
    """
    part = part_of(training, "critic")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = critic(training.recipe, training.models.sizes)
    assert fresh is not None
    for module in (part.module, *(shadow.module for shadow in part.shadows)):
        module.load_state_dict(fresh.state_dict())


def part_of(training: Training, name: str) -> Any:
    """What the trainer steps under this name."""
    return next(updater.part for updater in training.trainer.updaters if updater.name == name)


def looked_at(training: Training, maze: Maze2D, settings: Settings, kept: Kept) -> dict[str, Any]:
    """The averaged weights at this step: score and feasibility with each walk, and the error at each noise level."""
    step = training.trainer.step
    last = step == settings["checkpoints"][-1]
    agent = training.agent()
    walks = settings["walks"] | (settings["at_last"] if last else {})
    episodes = settings["episodes"] if last else settings["starts"]
    found = {}
    for name, changes in walks.items():
        scores = evaluate(
            with_walk(agent, replace(training.recipe, **changes), settings["candidates"]), maze, episodes=episodes,
            first_seed=settings["first_seed"], stop_when_solved=not last, label=name,
        )  # fmt: skip
        found[name] = outcome(scores)
    return {
        "step": step,
        "wall": kept.wall,
        "cpu": kept.cpu,
        "walks": found,
        "held_out": held_out(training),
        "critic": digest(part_of(training, "critic").weights()),
    }


def with_walk(agent: Agent, drawn: Planning, candidates: int) -> Agent:
    """The same networks, walked as another recipe says."""
    planner: Any = agent.proposer
    walked = replace(planner, solver=drawn.stepping(), grid=drawn.levels(), nearby=drawn.around())
    return replace(agent, proposer=walked, candidates=candidates)


def held_out(training: Training) -> dict[str, list[float | None]] | None:
    """The averaged planner's error at each noise scale, on windows that it has not seen."""
    windows = next((sink.batch for sink in training.trainer.sinks if isinstance(sink, Landscape)), None)
    if windows is None:
        return None
    lines = measure(deepcopy(part_of(training, "planner").weights()), windows)
    return {name: [line.get(name) for line in lines] for name in ("log_sigma", "log_loss", "fitted")}


def digest(module: nn.Module) -> str:
    """A module's weights, bit by bit, as a few letters."""
    hashed = hashlib.sha256()
    for name, value in module.state_dict().items():
        hashed.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]


# What is kept of an evaluation


def outcome(scores: Scores) -> dict[str, Any]:
    """Episode by episode, so that arms can be paired; and how plans met the world."""
    raw = scores.raw_score
    return {
        "latched": np.round(scores.latched_score, 3).tolist(),
        "raw": np.round(raw, 3).tolist() if np.isfinite(raw).all() else None,
        "success": float(scores.success.mean()),
        "feasibility": scores.feasibility.summary(),
        "planning": scores.planning.json(),
    }


def said(scores: Scores) -> str:
    """A line of it."""
    crossing = scores.feasibility.summary().get("executed_prefixes_crossing")
    return f"latched {scores.interval()}" + (
        f", {crossing:.1%} of prefixes cross a wall" if crossing is not None else ""
    )


def _said_of(point: dict[str, Any]) -> str:
    means = (f"{name} {np.mean(found['latched']):.1f}" for name, found in point["walks"].items())
    return f"latched {', '.join(means)}; {point['cpu']:.0f} s of training"


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _columns(path: Path) -> dict[str, list[float | None]] | None:
    """A CSV file of numbers."""
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) if row[name] else None for row in rows] for name in (rows[0] if rows else {})}


def _last(path: Path, column: str) -> float | None:
    found = (_columns(path) or {}).get(column)
    return found[-1] if found else None
