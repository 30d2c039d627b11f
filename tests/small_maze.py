"""What the tests of whole systems share: a maze that is learned in seconds, its logs, and whether its goal is found."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import kedge
from kedge.data import Trajectories

RING = "#######/#OOOOO#/#O###O#/#OOOGO#/#######"


@functools.cache
def maze() -> Any:
    return kedge.envs.Maze2D(RING)


@functools.cache
def logs(steps: int = 30_000) -> Trajectories:
    """Without provenance, for that tells how the maze is drawn."""
    made = maze().demonstrations(steps, cache=False)
    return Trajectories.of(made.observations, made.actions, made.ends, made.rewards)


def arrived(agent: Any, each: int = 2, steps: int = 240) -> np.ndarray:
    """Which episodes reach the goal: `each` from every cell that is two moves away from it, or more."""
    left = maze().layout.moves_to(maze().layout.cell)
    cells = [cell for cell in maze().layout.free if left[cell] > 1]
    starts = np.repeat(np.array(cells, float), each, 0)
    starts += np.random.default_rng(0).uniform(-0.1, 0.1, starts.shape)
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
