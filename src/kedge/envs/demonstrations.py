"""Logged behaviour for a maze: D4RL's waypoint controller on its way from one random cell to the next."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import mujoco
import numpy as np
from jaxtyping import Float32

import kedge.data
from kedge.data import Trajectories
from kedge.envs.layout import Layout
from kedge.envs.mazes import Mazes
from kedge.envs.model import start
from kedge.envs.waypoints import Waypoints
from kedge.errors import InputError

EPISODE = 2_000
"""Steps of an episode: some ten goals one after the other, and room for windows of hundreds of steps."""

FORMAT = 1
"""Counts up whenever the same settings give other numbers."""

Progress = Callable[[int, int], None]


def demonstrate(
    layout: Layout,
    steps: int = 1_000_000,
    seed: int = 0,
    cache: str | os.PathLike[str] | Literal[False] | None = None,
    progress: Progress | None = None,
) -> Trajectories:
    """Demonstrations for a maze: written once, opened from the cache from then on.

    They are D4RL's in kind: noise-free actions, a new goal cell drawn uniformly whenever the last one is reached or the
    maze's horizon has passed, rewards for the maze's own goal alone. D4RL logs one long stream; here episodes of 2,000
    steps run side by side, each in its own copy of the maze, beginning where an evaluation's episodes begin. The last
    episode is cut so that there are exactly `steps` steps.

    Args:
        layout: the maze.
        steps: how many in all.
        seed: of goals, starts and waypoints. An episode depends on the seed and on its own number.
        cache: the folder to keep them in, by default `$KEDGE_CACHE` or `~/.cache/kedge`; False keeps nothing.
        progress: is told how many steps are done, of how many.
    """
    if steps < 1:
        raise InputError(f"demonstrations have at least one step, not {steps}")
    made = settings(layout, steps, seed)
    if cache is False:
        return _logged(layout, made, progress)
    folder = cache_folder(cache) / f"demonstrations-{layout.name}-{fingerprint(made)}"
    if not folder.exists():
        _logged(layout, made, progress).save(folder)
    return kedge.data.open(folder)


def settings(layout: Layout, steps: int, seed: int) -> dict[str, Any]:
    """Everything that the numbers depend on."""
    made = {
        "format": FORMAT,
        "maze": list(layout.rows),
        "goal": layout.goal.tolist(),
        "horizon": layout.horizon,
        "steps": steps,
        "episode": EPISODE,
        "seed": seed,
    }
    return made | ({"drawn": [list(box) for box in layout.drawn]} if layout.drawn else {})


def fingerprint(made: dict[str, Any]) -> str:
    """Names a cache."""
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Where what can be made again is kept."""
    return Path(cache or os.environ.get("KEDGE_CACHE") or Path.home() / ".cache" / "kedge").expanduser()


def _logged(layout: Layout, made: dict[str, Any], progress: Progress | None) -> Trajectories:
    steps, count = made["steps"], -(-made["steps"] // EPISODE)
    observations, actions, rewards = _drive(layout, count, min(steps, EPISODE), made["seed"], progress)
    ends = np.minimum(np.arange(1, count + 1, dtype=np.int64) * EPISODE, steps)
    return Trajectories.of(
        observations=observations.reshape(-1, 4)[:steps],
        actions=actions.reshape(-1, 2)[:steps],
        rewards=rewards.reshape(-1)[:steps],
        ends=ends,
        provenance={
            "source": f"kedge: waypoint controller in maze {layout.name!r}, not D4RL's files",
            "settings": made,
            "mujoco": mujoco.__version__,
            "numpy": np.__version__,
        },
    )


def _drive(
    layout: Layout, count: int, length: int, seed: int, progress: Progress | None
) -> tuple[
    Float32[np.ndarray, "count length 4"], Float32[np.ndarray, "count length 2"], Float32[np.ndarray, "count length"]
]:
    """Copies side by side: what was seen, what was done there, and the reward for the maze's goal that came of it."""
    mazes, controller = Mazes(layout, count), Waypoints(layout)
    children = np.random.SeedSequence(seed).spawn(count)
    rngs = [np.random.default_rng(child) for child in children]
    x = mazes.place(np.stack([start(layout, rng) for rng in rngs]))
    controller.reset([int(child.generate_state(1, np.uint64)[0]) for child in children])
    for ball in range(count):
        controller.send(ball, controller.draw_cell(ball))
    observations = np.empty((count, length, 4), np.float32)
    actions, rewards = np.empty((count, length, 2), np.float32), np.empty((count, length), np.float32)
    since = np.zeros(count, int)
    for t in range(length):
        a, solved = controller.steer(x)
        a = a.astype(np.float32)  # what is logged is what was done
        observations[:, t], actions[:, t] = x, a
        x, rewards[:, t] = mazes.step(a)
        since += 1
        for ball in np.flatnonzero(solved | (since >= layout.horizon)):
            controller.send(int(ball), controller.draw_cell(int(ball)))
            since[ball] = 0
        if progress is not None and ((t + 1) % 50 == 0 or t + 1 == length):
            progress((t + 1) * count, length * count)
    return observations, actions, rewards
