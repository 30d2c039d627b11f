"""What the tests of whole systems share: a ring of a maze, its logs without the map, and a run of seconds in it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import kedge
from kedge.data import Trajectories

MAZE = "#######/#OOOOO#/#O###O#/#OOOGO#/#######"


@functools.cache
def maze() -> Any:
    return kedge.envs.Maze2D(MAZE)


@functools.cache
def logs(steps: int = 30_000) -> Trajectories:
    """Without provenance, for that tells how the maze is drawn."""
    made = maze().demonstrations(steps, cache=False)
    return Trajectories.of(made.observations, made.actions, made.ends, made.rewards)


def latched(agent: Any, episodes: int = 24, first_seed: int = 0) -> np.ndarray:
    """The score of each start."""
    found = kedge.evaluate(agent, maze(), episodes=episodes, first_seed=first_seed, stop_when_solved=True)
    return found.latched_score
