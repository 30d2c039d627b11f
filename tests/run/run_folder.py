"""A run's folder as training and evaluation leave it, made in a second: real mazes, scripted plans."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kedge.envs import Layout, Maze2D, Waypoints
from kedge.envs.task import Planned
from kedge.run.evaluate import evaluate

STRIDE, POINTS, NOISE_SCALES = 15, 32, (10.0, 3.0, 1.0, 0.3, 0.0)


def route(layout: Layout, start: np.ndarray, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Points along the cells from a start to the goal, a little off."""
    moves = layout.moves_to(layout.cell)
    cell, corners = layout.cell_of(start), [np.asarray(start, dtype=float)]
    while cell != layout.cell:
        near = [(cell[0] + i, cell[1] + j) for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        cell = min((c for c in near if c in moves), key=moves.__getitem__)
        corners.append(np.array(cell, dtype=float) - 0.2)
    corners.append(layout.goal)
    line = np.array(corners)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    places = np.minimum(0.6 * np.arange(POINTS), along[-1])
    points = np.stack([np.interp(places, along, line[:, k]) for k in range(2)], 1)
    wobble = np.cumsum(rng.normal(0, noise, points.shape), 0)
    return points + wobble - wobble[0]


class Planner(Waypoints):
    """The waypoint controller, which says every now and then what it is about to do. It gives up in some episodes."""

    label = "scripted"

    def __init__(self, layout: Layout, lost: int = 0, every: int = 45) -> None:
        super().__init__(layout)
        self.map, self.lost, self.every = layout, lost, every
        self.plans: list[Planned] = []

    def reset(self, seeds: Any) -> None:
        super().reset(seeds)
        self.plans, self.step, self.rng = [], 0, np.random.default_rng(list(seeds)[:1])

    def act(self, observations: np.ndarray, active: np.ndarray) -> np.ndarray:
        if self.step % self.every == 0:
            who = np.flatnonzero(active)
            points = np.array([route(self.map, observations[i, :2], self.rng, 0.03) for i in who]).reshape(
                -1, POINTS, 2
            )
            self.plans.append(Planned(self.step, STRIDE, who, points, self.rng.normal(size=len(who))))
        self.step += 1
        actions = np.array(super().act(observations, active))
        actions[: self.lost] = -0.4 * observations[: self.lost, 2:] - 0.05
        return actions


@dataclass(frozen=True)
class Plan:
    states: np.ndarray
    values: np.ndarray
    best: np.ndarray
    stride: int
    frames: list[tuple[float, np.ndarray]]


class Agent:
    """Plans by script: what `kedge.load` gives, for the pictures."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def plan(
        self, obs: np.ndarray, goal: Any = None, candidates: int = 64, seed: int = 0, frames: bool = False
    ) -> Plan:
        rng = np.random.default_rng(seed)
        ways = np.array([route(self.layout, state[:2], rng, 0.02) for state in obs])[:, None]
        wobble = rng.normal(0, rng.uniform(0, 0.25, (1, candidates, 1, 1)), (len(obs), candidates, POINTS, 2)).cumsum(2)
        states = ways + wobble - wobble[:, :, :1]
        values = -np.linalg.norm(states[:, :, -1] - self.layout.goal, axis=-1)
        shown = [(s, states + rng.normal(0, 0.3 * min(s, 3), states.shape)) for s in NOISE_SCALES]
        return Plan(states, values, values.argmax(1), STRIDE, shown)


def write_table(path: Path, columns: dict[str, Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def write_training(folder: Path, task: str, seed: int = 0, rate: float = 300.0, steps: int = 4000) -> None:
    """What training leaves: recipe, figures by step, the landscape. No weights."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "source": f"kedge: waypoint controller in {task}, not D4RL's files",
        "settings": {"steps": 1_000_000, "seed": 0},
    }
    fields = {
        "steps": steps,
        "batch": 64,
        "net": {"kind": "UNet1D", "width": 32},
        "rate": rate,
        "weighting": "polynomial",
    }
    recipe = {"recipe": "FV", "task": task, "seed": seed, "fields": fields, "data": data}
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    step = np.arange(50, steps + 1, 50)
    rng = np.random.default_rng(seed)
    loss = 1 + np.exp(-step / rate) * 3 + rng.normal(0, 0.04, len(step))
    critic = 0.4 * np.exp(-step / 900) + 0.02
    figures = {
        "step": step,
        "seconds": step * 0.05,
        "planner/loss": loss,
        "critic/loss": critic,
        "planner/lr": step * 0,
    }
    write_table(folder / "metrics.csv", figures)
    scale = np.tile(np.linspace(-4, 3, 24), 8)
    moment = np.repeat(np.linspace(500, steps, 8), 24)
    fitted = -2.2 - 1.6 * np.exp(-((scale - 1) ** 2) / 6) - 0.7 * np.log(moment / 500)
    error = fitted + rng.normal(0, 0.12, len(fitted))
    write_table(folder / "landscape.csv", {"step": moment, "log_sigma": scale, "log_loss": error, "fitted": fitted})


def write_evaluation(
    folder: Path,
    maze: Maze2D,
    episodes: int,
    label: str,
    lost: int = 0,
    plans: bool = True,
    first_seed: int = 1_000_000,
) -> None:
    agent = Planner(maze.layout, lost, 60 if plans else 10_000)
    evaluate(agent, maze, episodes, first_seed=first_seed, out=folder, label=label)


def write_run(
    folder: Path, layout: str = "umaze", episodes: int = 12, *, lost: int = 1, baselines: bool = True
) -> Path:
    """All of it. The time-optimal row has a score alone."""
    maze = Maze2D(layout)
    write_training(folder, maze.name)
    write_evaluation(folder, maze, episodes, "FV", lost)
    if baselines:
        rows = folder / "baselines"
        write_evaluation(rows / "controller", maze, episodes, "the data's controller", plans=False)
        shutil.copytree(rows / "controller", rows / "astar")
        write_evaluation(rows / "nearest", maze, episodes, "nearest logged segment", lost + 2, plans=False)
        (rows / "optimal").mkdir()
        best = {"task": maze.name, "label": "time-optimal", "latched": {"score": {"mean": 167.0}}, "success": 1.0}
        (rows / "optimal" / "evaluation.json").write_text(json.dumps(best), encoding="utf-8")
    return folder


__all__ = ["Agent", "Planner", "replace", "route", "write_evaluation", "write_run", "write_table", "write_training"]
