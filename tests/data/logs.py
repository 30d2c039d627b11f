"""Logged behaviour of every awkward kind, for the tests of data."""

from __future__ import annotations

from typing import Any

import numpy as np

from kedge.data import Trajectories


def logs_of(lengths: list[int], seed: int = 0, rewarded: float = 0.1, **more: Any) -> Trajectories:
    """Random episodes of those lengths. Observation 0 of step i is i, so that a window tells where it is from."""
    count, rng = sum(lengths), np.random.default_rng(seed)
    observations = rng.normal(size=(count, 4)).astype(np.float32)
    observations[:, 0] = np.arange(count)
    actions = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    rewards = (rng.random(count) < rewarded).astype(np.float32)
    given = {"observations": observations, "actions": actions, "rewards": rewards, "ends": np.cumsum(lengths)}
    return Trajectories.of(**(given | more))
