"""Walks that are acted on: every chunk of actions is one, and the environment says what it was worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from kedge.align.advantages import Piece, Relative, Standard
from kedge.align.walks import Recorded
from kedge.noise import Noise
from kedge.rl.objectives import discounted_advantages
from kedge.rl.replay import World
from kedge.rl.scale import RunningScale
from kedge.slots import CHUNK_SLOT, START_SLOT
from kedge.train import OptimiserSpec, Part, Tick
from kedge.walk import Walk
from kedge.walk.hooks import Record


@runtime_checkable
class Acting(Protocol):
    """How observations become conditions, and ends of walks actions."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a chunk, as it is walked."""
        ...

    def tell(self, observations: Float[np.ndarray, "n state"]) -> Any:
        """The condition of each walk."""
        ...

    def act(self, chunk: Tensor) -> Float[np.ndarray, "n steps act"]:
        """The actions that are done, one after another, before the next walk."""
        ...


class StateCritic(nn.Module):
    """`V(s)`, by regression on returns: `(V(s) - G)^2 / 2`. It hears the state alone, never a noised action: all steps
    of a walk then share one advantage, that of the action which they make together.

    Args:
        net: `[B, S] -> [B]`.
        state: of a condition, `[B, S]`.
    """

    def __init__(self, net: nn.Module, state: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.net, self.state = net, state

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps: this module, on its loss. Options are those of `kedge.train.Part`."""
        options.setdefault("compiles", (self.net,))
        options.setdefault("shadows", ())
        return Part(self, self, optimiser, **options)

    def value(self, cond: Any) -> Tensor:
        """`[B]`."""
        return self.net(self.state(cond))

    def forward(self, batch: Recorded, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The loss of each walk `[B]`, and the share of the returns' variance explained."""
        if batch.returns is None:
            raise ValueError("StateCritic learns from the returns of Rollouts; these walks have none")
        G = batch.returns
        error = (self.value(batch.record.states[0].given) - G) ** 2
        explained = 1 - error.detach().mean() / G.var(correction=0).clamp(min=torch.finfo(G.dtype).tiny)
        return error / 2, {"explained": explained}


@dataclass(frozen=True)
class Generalised:
    """How much better than the critic expected what followed was, whatever came before this piece."""

    def __call__(self, value: Tensor, batch: Recorded) -> Tensor:
        """See the class."""
        if batch.ahead is None:
            raise ValueError("Generalised: these walks are no actions; take them from Rollouts")
        return batch.ahead.to(value)


DPPO: tuple[Piece, ...] = (Generalised(), Relative(), Standard())
"""Generalised advantages, centred and scaled over the batch."""


class Episodes(NamedTuple):
    """What one collection saw: T chunks in each of n copies.

    records: of the walks of each chunk
    rewards: `[T, n]`
    ended:   `[T, n]` booleans: nothing of worth follows
    counts:  `[T, n]` booleans: the chunks that were acted on
    values:  `[T + 1, n]`, the critic's word, before each and after the last
    """

    records: list[Record]
    rewards: Tensor
    ended: Tensor
    counts: Tensor
    values: Tensor


class Rollouts:
    """A source of batches: what a policy did in copies of an environment, from their resets on. Each chunk of actions
    is one recorded walk; its reward is what its actions earned together, and what followed is in `ahead` and `returns`.

    A batch is a function of the trainer's seed and step, the weights and the scale of rewards, which is saved with the
    run; the environment is not, for every collection begins at a reset.

    Args:
        walk: of chunks, with a random solver and whatever makes it explore.
        acting: see `Acting`.
        simulator: the copies.
        chunks: that are walked in each copy, at most.
        critic: None: nothing is expected, and nothing of what follows the last chunk is known.
        discount: of what comes one chunk later.
        trace: how far ahead rewards count rather than the critic.
        scale: of the rewards that advantages are made of.
        once: an episode ends with its first reward above 0, and what follows is not learned from.
        final: nothing is to be had after the last chunk; otherwise it is the collection that ends there, not the task,
            and the critic says what would have followed.
    """

    follows_weights = True

    def __init__(
        self,
        walk: Walk,
        acting: Acting,
        simulator: World,
        chunks: int,
        *,
        critic: StateCritic | None = None,
        discount: float = 0.99,
        trace: float = 0.95,
        scale: RunningScale | None = None,
        once: bool = False,
        final: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if chunks < 1:
            raise ValueError(f"Rollouts: at least one chunk in each copy, got {chunks}")
        self.walk, self.acting, self.chunks = walk, acting, chunks
        self.simulator = simulator
        self.critic, self.discount, self.trace, self.scale = critic, discount, trace, scale
        self.once, self.final, self.dtype = once, final, dtype
        self.steps = 0
        """Of the environment, in all copies together, as long as their episodes went on."""

    @torch.no_grad()
    def next(self, tick: Tick) -> Recorded:
        """Fresh episodes."""
        seen = self.collect(tick)
        rewards = seen.rewards if self.scale is None else self.scale(seen.rewards, seen.ended, seen.counts)
        after = torch.where(seen.ended, 0.0, seen.values[1:])
        ahead = discounted_advantages(rewards, seen.values[:-1], after, seen.ended, self.discount, self.trace)
        returns, rows = ahead + seen.values[:-1], seen.counts.flatten().nonzero()[:, 0]
        flat = {"reward": seen.rewards, "ahead": ahead, "returns": returns}
        batch = Recorded(Record.joined(seen.records), **{name: one.flatten() for name, one in flat.items()})
        return batch if len(rows) == len(batch.reward) else batch.take(rows)

    def collect(self, tick: Tick) -> Episodes:
        """From the resets on, chunk by chunk; where an episode has ended, what is done counts no more."""
        n = self.simulator.count
        observations = self.simulator.reset(tick.seeds(n).tolist())
        running = torch.ones(n, dtype=torch.bool, device=tick.device)
        records, rewards, ended, counts, values = [], [], [], [], [self._value(observations)]
        for k in range(self.chunks):
            record, actions = self._walked(observations, tick, k)
            observations, reward, over, steps = self._acted(actions, running)
            self.steps += steps
            records.append(record)
            rewards.append(reward)
            counts.append(running)
            ended.append(over)
            running = running & ~over
            values.append(self._value(observations))
            if not bool(running.any()):
                break
        if self.final:
            ended[-1] = torch.ones_like(running)
        return Episodes(records, *(torch.stack(one) for one in (rewards, ended, counts, values)))

    def _walked(self, observations: np.ndarray, tick: Tick, k: int) -> tuple[Record, np.ndarray]:
        record, n, path = Record(), len(observations), self.walk.path
        seeds = Noise.of(tick.seeds(n, CHUNK_SLOT), n, tick.device).seeds(k)
        z = Noise.of(seeds, n, tick.device).normal((n, *self.acting.shape), 0, START_SLOT, self.dtype)
        start = z * torch.as_tensor(path.sigma(self.walk.grid.levels(path).t[0])).to(z)
        walk = replace(self.walk, hooks=[*self.walk.hooks, record])
        end = walk.run(start, self.acting.tell(observations), seeds=seeds).x
        assert isinstance(end, Tensor)
        return record, self.acting.act(end)

    def _acted(self, actions: np.ndarray, running: Tensor) -> tuple[np.ndarray, Tensor, Tensor, int]:
        """The actions of a chunk, one after another: what is seen then, earned, over, and how many steps it took."""
        alive, steps = running.cpu().numpy().copy(), 0
        total = np.zeros(len(actions))
        observations: np.ndarray | None = None
        for i in range(actions.shape[1]):
            observations, earned = self.simulator.step(actions[:, i])
            total += np.where(alive, earned, 0.0)
            steps += int(alive.sum())
            if self.once:
                alive &= ~(earned > 0)
        assert observations is not None
        reward = torch.as_tensor(total, dtype=self.dtype, device=running.device)
        over = running & ~torch.as_tensor(alive, device=running.device)
        return observations, reward, over, steps

    def _value(self, observations: np.ndarray) -> Tensor:
        if self.critic is None:
            return torch.zeros(len(observations), dtype=self.dtype)
        return self.critic.value(self.acting.tell(observations)).to(self.dtype)

    def state(self) -> dict[str, Any]:
        """The scale of rewards, and how many steps were made."""
        return {"steps": self.steps, "scale": None if self.scale is None else self.scale.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.steps = state["steps"]
        if self.scale is not None:
            self.scale.load(state["scale"])
