"""What the tests of whole systems share: a maze that is learned in seconds, its logs without the map, and far starts."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import kedge
from kedge.data import Trajectories

RING = "#######/#OOOOO#/#O###O#/#OOOGO#/#######"
FAR = ((1, 1), (1, 2), (1, 3))
"""Cells from which the goal is five or six moves away, round a corner or two."""


@functools.cache
def maze() -> Any:
    return kedge.envs.Maze2D(RING)


@functools.cache
def logs(steps: int = 30_000) -> Trajectories:
    """Without provenance, for that tells how the maze is drawn."""
    made = maze().demonstrations(steps, cache=False)
    return Trajectories.of(made.observations, made.actions, made.ends, made.rewards)


def arrived(agent: Any, each: int = 4, steps: int = 240) -> np.ndarray:
    """Which episodes from far starts reach the goal, `each` from every cell."""
    starts = np.repeat(np.array(FAR, float), each, 0) + np.random.default_rng(0).uniform(-0.1, 0.1, (3 * each, 2))
    simulator, controller = maze().simulator(len(starts)), agent.controller()
    here = simulator.place(np.concatenate([starts, np.zeros_like(starts)], 1))
    controller.reset(range(len(starts)))
    done = np.zeros(len(starts), bool)
    for _ in range(steps):
        here, rewards = simulator.step(controller.act(here, ~done))
        done |= rewards > 0
        if done.all():
            break
    return done
