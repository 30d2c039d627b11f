"""Many copies of the kitchen, stepped together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from gymnasium.utils.seeding import np_random
from jaxtyping import Bool, Float

from kedge.envs.chores import OBJECTS, ROBOT, Chores
from kedge.envs.franka import AMPLITUDES, FRAMES, NOISE, begun, compiled, mj, targets

QPOS = slice(1, 1 + ROBOT + OBJECTS)
"""Where MuJoCo's state holds the positions: after the time."""


class Kitchens:
    """Copies of one kitchen. Each gives bitwise what it gives alone, whoever its neighbours are.

    A copy is a row of numbers: all that a step of the physics depends on, what its solver starts from included. A
    thread takes a row, steps it and puts it back, while MuJoCo lets others run: copies cost three kilobytes each, and
    no processes are needed.

    Args:
        chores: what episodes are about: "partial", "mixed", "complete", or chores by name.
        count: how many copies.
        threads: that step them, by default one a core.
        noise: the share of the noise's amplitudes, D4RL's 0.1 unless told otherwise.
    """

    def __init__(
        self, chores: Chores | str | Sequence[str], count: int, threads: int | None = None, noise: float = NOISE
    ) -> None:
        if count < 1:
            raise ValueError(f"Kitchens: at least one copy is stepped, not {count}")
        self.chores, self.count, self.noise = Chores.of(chores), count, noise
        self.threads = min(count, threads or _cores())
        self._model = compiled()
        self._data = [mj.MjData(self._model) for _ in range(self.threads)]
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        self._now = np.tile(begun(), (count, 1))
        self._rngs = [np_random(None)[0] for _ in range(count)]
        self._seen = np.zeros((count, ROBOT + OBJECTS))
        self._left = np.ones((count, len(self.chores.which)), bool)

    @property
    def positions(self) -> Float[np.ndarray, "n 30"]:
        """Where everything is, without noise."""
        return self._now[:, QPOS].copy()

    @property
    def left(self) -> Bool[np.ndarray, "n chores"]:
        """Which chores are yet to be done."""
        return self._left.copy()

    def reset(self, seeds: Sequence[int]) -> Float[np.ndarray, "n 60"]:
        """Begins an episode in each copy: where the single environment's `reset(seed=...)` begins it."""
        if len(seeds) != self.count:
            raise ValueError(f"Kitchens: {self.count} copies need as many seeds, got {len(seeds)}")
        return self.begin([np_random(int(seed))[0] for seed in seeds])

    def begin(self, rngs: Sequence[np.random.Generator]) -> Float[np.ndarray, "n 60"]:
        """Begins an episode in each copy, whose noise is drawn from its generator."""
        self._rngs = list(rngs)
        self._now[:] = begun()
        self._left[:] = True
        return self._look()

    def begin_one(self, copy: int, rng: np.random.Generator) -> Float[np.ndarray, " 60"]:
        """Begins an episode in one copy; the others go on."""
        self._rngs[copy], self._now[copy], self._left[copy] = rng, begun(), True
        self._seen[copy] = begun()[QPOS] + self.noise * AMPLITUDES * _drawn(rng)
        return np.concatenate([self._seen[copy], self.chores.goal])

    def place(self, positions: Float[np.ndarray, "n 30"]) -> Float[np.ndarray, "n 60"]:
        """Puts everything to these positions, at rest; chores that were done stay so."""
        for row, there in zip(self._now, positions, strict=True):
            data = self._data[0]
            mj.mj_resetData(self._model, data)
            data.qpos[:] = there
            mj.mj_forward(self._model, data)
            mj.mj_getState(self._model, data, row, mj.mjtState.mjSTATE_INTEGRATION)
        return self._look()

    def step(self, actions: Float[np.ndarray, "n 9"]) -> tuple[Float[np.ndarray, "n 60"], Float[np.ndarray, " n"]]:
        """Moves every copy on by a step: observations, and how many chores were done in it for the first time."""
        if bad := np.flatnonzero(~np.isfinite(actions).all(1)).tolist():
            raise ValueError(f"Kitchens: the action of copy {bad[0]} is not finite: {actions[bad[0]].tolist()}")
        controls = targets(self._seen[:, :ROBOT], actions)
        shares = [range(first, self.count, self.threads) for first in range(self.threads)]
        if self._pool is None:
            self._move(0, shares[0], controls)
        else:
            for moved in [self._pool.submit(self._move, i, share, controls) for i, share in enumerate(shares)]:
                moved.result()
        observations = self._look()
        now = self._left & self.chores.done(self._seen)
        self._left &= ~now
        return observations, now.sum(1).astype(float)

    def _move(self, thread: int, copies: Sequence[int], controls: Float[np.ndarray, "n 9"]) -> None:
        """A thread's share of a step."""
        model, data, spec = self._model, self._data[thread], mj.mjtState.mjSTATE_INTEGRATION
        for copy in copies:
            mj.mj_setState(model, data, self._now[copy], spec)
            data.ctrl[:] = controls[copy]
            mj.mj_step(model, data, FRAMES)
            mj.mj_getState(model, data, self._now[copy], spec)

    def _look(self) -> Float[np.ndarray, "n 60"]:
        """What is seen: positions with noise, and the goal. D4RL draws noise for velocities as well, and shows none."""
        draws = np.stack([_drawn(rng) for rng in self._rngs])
        self._seen = self._now[:, QPOS] + self.noise * AMPLITUDES * draws
        return np.concatenate([self._seen, np.broadcast_to(self.chores.goal, self._seen.shape)], 1)

    def show(self, copy: int, data: Any) -> None:
        """Puts a copy into data of MuJoCo's own, to be looked at."""
        mj.mj_setState(self._model, data, self._now[copy], mj.mjtState.mjSTATE_INTEGRATION)
        mj.mj_forward(self._model, data)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_model", "_data", "_pool")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._model = compiled()
        self._data = [mj.MjData(self._model) for _ in range(self.threads)]
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None


def _drawn(rng: np.random.Generator) -> Float[np.ndarray, " 30"]:
    """U(-1, 1) for each position, drawn in D4RL's order: the arm, its velocities, the rest, and its velocities."""
    draws = rng.uniform(-1.0, 1.0, 2 * (ROBOT + OBJECTS))
    return np.concatenate([draws[:ROBOT], draws[2 * ROBOT : 2 * ROBOT + OBJECTS]])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
