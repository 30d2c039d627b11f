"""Transitions: lived through in many copies of an environment at once, remembered, and learned from more than once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kedge.noise import Noise
from kedge.slots import EPISODE_BEGIN_SLOT, EPISODE_SLOT, MEMORY_SLOT
from kedge.train import Tick
from kedge.train.source import samples
from kedge.tree import first_leaf, take

Act = Callable[[Tensor, Noise, int], Tensor]
"""`act(state [B, S], noise, step) -> [B, A]`: what is done there. What is random in it is drawn from the noise, which
is the same throughout an episode, at this step."""


@runtime_checkable
class World(Protocol):
    """Copies of one environment, stepped together: any `kedge.envs.Simulator`. It is said again here since to learn by
    rewards needs none of the simulators that come with that room.
    """

    @property
    def count(self) -> int:
        """How many copies."""
        ...

    def reset(self, seeds: Sequence[int]) -> Float[np.ndarray, "n state"]:
        """Begins an episode in each copy; there are as many seeds as copies."""
        ...

    def step(self, actions: Float[np.ndarray, "n act"]) -> tuple[Float[np.ndarray, "n state"], Float[np.ndarray, " n"]]:
        """Moves every copy on: observations and rewards."""
        ...


class Replay:
    """The latest transitions: "state", "action", "reward", "next" and "ended", and whatever else is added with them.

    Args:
        capacity: how many; the oldest leave it.
    """

    def __init__(self, capacity: int = 1_000_000) -> None:
        if capacity < 1:
            raise ValueError(f"Replay: a memory of {capacity} transitions holds none")
        self.capacity, self.data, self.added = capacity, dict[str, Tensor](), 0

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, transitions: dict[str, Tensor]) -> None:
        """These too, from the first on."""
        count = samples(transitions, "Replay") or 0
        if self.data and self.data.keys() != transitions.keys():
            raise ValueError(f"Replay: it holds {', '.join(self.data)}, and was given {', '.join(transitions)}")
        if count > self.capacity:
            transitions = {name: leaf[-self.capacity :] for name, leaf in transitions.items()}
        first = max(self.added, self.added + count - self.capacity)
        place = torch.arange(first, self.added + count) % self.capacity
        for name, leaf in transitions.items():
            if name not in self.data:
                self.data[name] = leaf.new_zeros((self.capacity, *leaf.shape[1:]))
            held = self.data[name]
            held[place.to(held.device)] = leaf.detach().to(held.device)
        self.added += count

    def draw(self, count: int, noise: Noise, step: int) -> dict[str, Tensor]:
        """So many of them, each alike likely every time."""
        if not len(self):
            raise ValueError("Replay: nothing is remembered yet")
        index = (noise.uniform((count,), step, MEMORY_SLOT) * len(self)).long().clamp(max=len(self) - 1)
        return cast(dict[str, Tensor], take(self.data, index.to(first_leaf(self.data).device)))

    def state(self) -> dict[str, Any]:
        """All that is remembered."""
        held = {name: leaf[: len(self)] for name, leaf in self.data.items()}
        return {"data": held, "added": self.added, "capacity": self.capacity}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from there; refuses a memory of another size."""
        if state["capacity"] != self.capacity:
            raise ValueError(f"Replay: a memory of {state['capacity']} does not go on as one of {self.capacity}")
        self.data, self.added = {}, 0
        if state["data"]:
            self.add(state["data"])
        self.added = state["added"]


@torch.no_grad()
def lived(
    simulator: World,
    act: Act,
    horizon: int,
    begins: Sequence[int],
    noise: Noise,
    *,
    ends: bool = False,
    once: bool = False,
) -> dict[str, Tensor]:
    """The transitions of one episode in each copy, step by step: `horizon` of each, or as many as there are.

    Args:
        simulator: the copies.
        act: who acts in them.
        horizon: steps of an episode.
        begins: a seed for each copy.
        noise: of the actions; what is lived through lies on its device.
        ends: whether the task is over with the last step, so that nothing follows it; otherwise the clock has merely
            cut it off, and what it would have gone on to is worth what the critic says.
        once: whether the task is over at the first reward above 0. What is done afterwards is left out.
    """
    device = noise.key.device
    state = torch.as_tensor(simulator.reset(begins)).float().to(device)
    found = list[dict[str, Tensor]]()
    running = torch.ones(len(state), dtype=torch.bool, device=device)
    for step in range(horizon):
        action = act(state, noise, step)
        observed, reward = simulator.step(action.double().cpu().numpy())
        following, worth = (torch.as_tensor(seen).float().to(device) for seen in (observed, reward))
        there = (worth > 0) & once
        over = there | (ends and step == horizon - 1)
        made = {"state": state, "action": action.float(), "reward": worth, "next": following, "ended": over}
        found.append(cast(dict[str, Tensor], take(made, running.nonzero()[:, 0])))
        state, running = following, running & ~there
        if not bool(running.any()):
            break
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


class OwnEpisodes:
    """A source of batches of transitions: from time to time episodes of the policy as it is then, and what is
    remembered of all of them.

    An episode is lived through at once, and depends on the seed, the step and the weights. So a run is taken up from
    what is remembered: no environment has to be saved.

    Args:
        simulator: copies of the environment.
        act: the policy.
        replay: the memory. What is in it at the beginning (logs, say, or episodes of another policy) is learned from
            too; while it is empty, the first batch begins with episodes.
        batch: transitions in a batch.
        horizon: steps of an episode.
        every: steps of training between the times that each copy lives through one.
        ends, once: see `lived`.
        limit: on the transitions that are ever added: afterwards it learns from memory alone.
    """

    follows_weights = True

    def __init__(
        self,
        simulator: World,
        act: Act,
        replay: Replay,
        batch: int = 256,
        *,
        horizon: int = 1,
        every: int = 1,
        ends: bool = False,
        once: bool = False,
        limit: int | None = None,
    ) -> None:
        if min(batch, horizon, every) < 1:
            raise ValueError(f"OwnEpisodes: batch, horizon and every are at least 1: {batch}, {horizon}, {every}")
        self.simulator, self.act, self.replay, self.batch = simulator, act, replay, batch
        self.horizon, self.every, self.limit = horizon, every, limit
        self.ends, self.once = ends, once
        self.lived = 0
        """Steps in the environment so far."""

    def next(self, tick: Tick) -> dict[str, Tensor]:
        """A batch, after episodes where it is their time."""
        due = tick.step % self.every == 0 and tick.turn == 0
        if (due or not len(self.replay)) and (self.limit is None or self.lived < self.limit):
            self.live(tick)
        return self.replay.draw(self.batch, tick.noise(self.batch), tick.step)

    def live(self, tick: Tick) -> None:
        """An episode in each copy."""
        count = self.simulator.count
        begins = (tick.seeds(count, EPISODE_BEGIN_SLOT) % 2**31).tolist()
        noise = Noise.of(tick.seeds(count, EPISODE_SLOT), count)
        made = lived(self.simulator, self.act, self.horizon, begins, noise, ends=self.ends, once=self.once)
        self.replay.add(made)
        self.lived += len(made["reward"])

    def state(self) -> dict[str, Any]:
        """What is remembered."""
        return {"lived": self.lived, "replay": self.replay.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.lived = state["lived"]
        self.replay.load(state["replay"])
