"""A point that moves an eighth at most a step and is paid at 1: scores that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kedge.envs.task import Planned

MOVE = 0.125


class Points:
    """The simulator. Episode `seed` starts `seed % 5` moves below 0, so that 1 is 8 + seed % 5 moves away."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.states = np.zeros((count, 4))

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        self.states = np.zeros((self.count, 4))
        self.states[:, 0] = [-MOVE * (seed % 5) for seed in seeds]
        return self.states

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.states = self.states.copy()
        self.states[:, :2] += MOVE * np.clip(actions, -1, 1)
        return self.states, (np.abs(self.states[:, 0] - 1) < MOVE / 2).astype(float)


class Fence:
    """A map with a wall between x = low and x = high."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def crosses(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (np.minimum(a[..., 0], b[..., 0]) <= self.high) & (np.maximum(a[..., 0], b[..., 0]) >= self.low)


@dataclass
class Line:
    """The task; 0 to `horizon` steps at 1 are 0 to 100 per cent."""

    horizon: int = 20
    name: str = "line"
    layout: Fence | None = None

    def simulator(self, count: int) -> Points:
        return Points(count)

    def score(self, returns: np.ndarray) -> np.ndarray:
        return 100 * returns / self.horizon


@dataclass
class Walker:
    """Goes right at `pace`; what it returns for episodes that are over is not a number. Plans every `every` steps."""

    pace: float = 1.0
    every: int | None = None
    stride: int = 2
    length: int = 4
    ahead: float = 0.0
    plans: list[Planned] = field(default_factory=list)
    asked: list[np.ndarray] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    step: int = 0

    def reset(self, seeds: Sequence[int]) -> None:
        self.seeds, self.step, self.plans, self.asked = list(seeds), 0, [], []

    def act(self, observations: np.ndarray, active: np.ndarray) -> np.ndarray:
        if self.every and self.step % self.every == 0:
            self.plan(observations, np.flatnonzero(active))
        self.step += 1
        self.asked.append(active.copy())
        actions = np.zeros((len(active), 2))
        actions[:, 0] = self.pace
        actions[~active] = np.nan
        return actions

    def plan(self, observations: np.ndarray, episodes: np.ndarray) -> None:
        """The way it will go, `ahead` of where it is."""
        along = self.ahead + MOVE * self.pace * self.stride * np.arange(self.length)
        points = observations[episodes, None, :2] + np.stack([along, 0 * along], -1)
        values = -observations[episodes, 0]
        self.plans.append(Planned(self.step, self.stride, episodes, points, values))


class Stayer(Walker):
    """Goes right until it is at 1, and stays there by itself."""

    def act(self, observations: np.ndarray, active: np.ndarray) -> np.ndarray:
        actions = super().act(observations, active)
        return np.where(observations[:, :1] >= 1, 0.0, actions)


class Trained:
    """An agent that gives a walker."""

    label = "a trained walker"

    def controller(self) -> Walker:
        return Walker()
