"""Scripted demonstrations for the kitchen, as D4RL's were made: one stream, rewarded by each task's rules."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

import mujoco
import numpy as np
from jaxtyping import Bool, Float32

import kedge.data
from kedge.data import Trajectories
from kedge.envs.chores import CHORES, HORIZON, SETS, Chores, done
from kedge.envs.cook import Cook
from kedge.envs.demonstrations import cache_folder, fingerprint
from kedge.envs.franka import STANDING
from kedge.envs.kitchens import Kitchens
from kedge.errors import InputError

FORMAT = 1
"""Counts up whenever the same settings give other numbers."""

STEPS = 137_000
"""As many as D4RL's partial and mixed have: 136,950."""

BESIDE = 16
"""Episodes side by side, of which the numbers do not depend on it."""

_LETTERS = {chore[0]: chore for chore in CHORES}
ORDERS = tuple(
    tuple(_LETTERS[letter] for letter in order)
    for order in (
        *("kbsh", "kbls", "klsh", "ktbs", "ktls", "mbsh", "mbls", "mkbh", "mkbs", "mksh", "mkls"),
        *("mkth", "mktl", "mtbh", "mtbs", "tbsh", "tbls", "kblh", "ktbh", "ktbl", "mtlh"),
    )
)
"""Four chores in order, as those who made D4RL's demonstrations were asked for them, but with the hinge cabinet last:
the cook takes a hundred steps for it, and would have none left for the sliding door. One of them is partial's; none has
all of mixed's.
"""

Progress = Callable[[int, int], None]


def demonstrate_kitchen(
    chores: Chores,
    steps: int = STEPS,
    seed: int = 0,
    cache: str | os.PathLike[str] | Literal[False] | None = None,
    progress: Progress | None = None,
) -> Trajectories:
    """Scripted demonstrations for a kitchen: made once, opened from the cache from then on.

    An episode is one of 21 orders of four chores, done by the scripted cook at a pace of its own, to its end or for 280
    steps. The stream is the same for every task; what differs is the goal that is seen and what is rewarded. An episode
    in which all of mixed's chores happen to be done is left out. There are whole episodes only, `steps` steps at least.

    These are not D4RL's demonstrations, which people made: say *scripted* wherever a score that comes of them is told.

    Args:
        chores: what is rewarded.
        steps: at least so many in all.
        seed: an episode depends on it and on its own number.
        cache: the folder to keep them in, by default `$KEDGE_CACHE` or `~/.cache/kedge`; False keeps nothing.
        progress: is told how many steps are done, of how many.
    """
    if steps < 1:
        raise InputError(f"demonstrations have at least one step, not {steps}")
    made = kitchen_settings(steps, seed)
    if cache is False:
        return rewarded(_stream(made, progress), chores)
    folder = cache_folder(cache) / f"scripted-kitchen-{fingerprint(made)}"
    if not folder.exists():
        _stream(made, progress).save(folder)
    return rewarded(kedge.data.open(folder), chores)


def kitchen_settings(steps: int, seed: int) -> dict[str, Any]:
    """Everything that the stream depends on."""
    orders = [list(order) for order in ORDERS]
    return {"format": FORMAT, "orders": orders, "horizon": HORIZON, "steps": steps, "seed": seed}


def rewarded(stream: Trajectories, chores: Chores) -> Trajectories:
    """The stream as a task sees it: its goal beside each observation, and a reward for each of its chores that is seen
    done for the first time in its episode.
    """
    seen = np.asarray(stream.observations)
    columns = [list(CHORES).index(chore) for chore in chores.which]
    there = np.asarray(stream.columns["done"])[:, columns] > 0
    rewards = np.zeros(len(seen), np.float32)
    for start, end in zip(stream.starts, stream.ends, strict=True):
        ever = np.logical_or.accumulate(there[start:end], 0)
        rewards[start:end] = np.diff(ever.sum(1), prepend=0)
    goal = np.broadcast_to(chores.goal.astype(np.float32), seen.shape)
    return Trajectories.of(
        observations=np.concatenate([seen, goal], 1),
        actions=np.asarray(stream.actions),
        rewards=rewards,
        ends=np.asarray(stream.ends),
        provenance={**stream.provenance, "rewarded": list(chores.which)},
    )


@dataclass
class _Log:
    """An episode as it goes."""

    number: int
    seen: list[Float32[np.ndarray, " 30"]] = field(default_factory=list)
    actions: list[Float32[np.ndarray, " 9"]] = field(default_factory=list)
    done: list[Bool[np.ndarray, " chores"]] = field(default_factory=list)

    @property
    def mixed(self) -> bool:
        """Whether all of mixed's chores were done in it."""
        return bool(np.any(self.done, 0)[[list(CHORES).index(chore) for chore in SETS["mixed"]]].all())


def _stream(made: dict[str, Any], progress: Progress | None) -> Trajectories:
    logs = _cook(made, progress)
    lengths = [len(log.actions) for log in logs]
    return Trajectories.of(
        observations=np.concatenate([log.seen for log in logs]),
        actions=np.concatenate([log.actions for log in logs]),
        rewards=np.zeros(sum(lengths), np.float32),
        ends=np.cumsum(lengths),
        done=np.concatenate([log.done for log in logs]).astype(np.float32),
        provenance={
            "source": "kedge: scripted kitchen demonstrations, not D4RL's files",
            "settings": made,
            "mujoco": mujoco.__version__,
            "numpy": np.__version__,
            "gymnasium-robotics": version("gymnasium-robotics"),
        },
    )


def _cook(made: dict[str, Any], progress: Progress | None) -> list[_Log]:
    """Episodes by number, as many as it takes: where one is over, the next begins in its copy."""
    kitchens, cook = Kitchens("partial", BESIDE), Cook("partial")
    seen = kitchens.reset(range(BESIDE))
    cook.reset(range(BESIDE))
    running, finished, begun = [_Log(-1) for _ in range(BESIDE)], dict[int, _Log](), 0
    while (enough := _enough(finished, made["steps"])) is None:
        for copy, log in enumerate(running):
            over = len(log.actions) >= made["horizon"] or bool(cook.finished[copy])
            if log.number < 0 or over:
                finished |= {log.number: log} if over and log.number >= 0 else {}
                running[copy], seen[copy] = _Log(begun), _begin(kitchens, cook, copy, made["seed"], begun)
                begun += 1
        actions = cook.act(seen).astype(np.float32)  # what is logged is what was done
        for log, o, a in zip(running, seen, actions, strict=True):
            log.seen.append(o[: len(STANDING)].astype(np.float32))
            log.actions.append(a)
        seen, _ = kitchens.step(actions.astype(float))
        now = np.stack([done(chore, seen[:, : len(STANDING)]) for chore in CHORES], 1)
        for log, there in zip(running, now, strict=True):
            log.done.append(there)
        if progress is not None:
            progress(min(sum(len(log.actions) for log in finished.values()), made["steps"]), made["steps"])
    return enough


def _begin(kitchens: Kitchens, cook: Cook, copy: int, seed: int, number: int) -> np.ndarray:
    """Begins an episode in a copy: what is seen first."""
    noise, hand, order = np.random.SeedSequence([seed, number]).spawn(3)
    cook.send_one(copy, ORDERS[np.random.default_rng(order).integers(len(ORDERS))], np.random.default_rng(hand))
    return kitchens.begin_one(copy, np.random.default_rng(noise))


def _enough(finished: dict[int, _Log], steps: int) -> list[_Log] | None:
    """The first episodes without a gap, where they have that many steps."""
    kept, total, number = list[_Log](), 0, 0
    while number in finished:
        if not finished[number].mixed:
            kept.append(finished[number])
            total += len(finished[number].actions)
            if total >= steps:
                return kept
        number += 1
    return None
