"""Walks that were recorded to be learned from: drawn, rewarded, kept, drawn again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.noise import Noise
from kedge.train import Tick
from kedge.tree import Tree, take
from kedge.walk import Walk
from kedge.walk.hooks import Record

Reward = Callable[[Tree, Any], Tensor]
"""`reward(x, cond) -> [B]`: what clean samples are worth, each by itself."""

START_SLOT, CONDITION_SLOT = 7, 8
"""The starts' and the conditions' own streams, apart from the steps' noise."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """A batch of walks and what they are worth.

    record:  what happened
    drawn:   `[K, B]`, the log-density of each random step under the walk that drew it
    reward:  `[B]`, of the ends
    plugged: `[K, B]`, the reward of the clean estimate before each random step; None where nobody asked
    group:   `[B]` whole numbers, the same for samples of one condition; None: all are one group
    """

    record: Record
    drawn: Tensor
    reward: Tensor
    plugged: Tensor | None = None
    group: Tensor | None = None


@torch.no_grad()
def recorded(
    walk: Walk, start: Tree, reward: Reward, cond: Any = None, seeds: Any = None, group: Any = None, plug: bool = False
) -> Recorded:
    """Walks from `start` and keeps what happened; with `plug` the estimates on the way are rewarded as well."""
    record = Record()
    end = Walk(walk.denoiser, walk.solver, walk.grid, [*walk.hooks, record]).run(start, cond, seeds=seeds)
    plugged = None
    if plug:
        estimates = [record.steps[i].estimate for i in record.random_steps]
        plugged = torch.stack([reward(estimate.x, cond) for estimate in estimates if estimate is not None])
    return Recorded(record, record.log_prob(), reward(end.x, cond), plugged, group)


def replayed(walk: Walk, record: Record, denoiser: Any = None, *, average: bool = False) -> Tensor:
    """`[K, B]`: the log-density of each recorded random step under this denoiser, summed over the entries of an event.

    `average=True` takes their mean, as some released code does: its exponential is no ratio of densities, so that what
    is weighed with it is tempered by the number of entries.
    """
    return record.log_prob(walk.replay(record, denoiser), average=average)


class OwnWalks:
    """A source of batches: walks of the model as it is at that moment.

    A batch is a function of the trainer's seed and step and of the weights, so that nothing has to be saved.

    Args:
        walk: what is trained, with a random solver.
        shape: of a sample.
        batch: walks in a batch.
        reward: of clean samples.
        conditions: `conditions(count, noise) -> cond`, what to walk for; `each` walks share one. The noise is another
            one at every step: draw from it at any step and slot.
        each: walks for one condition, which are one group.
        one_start: whether a group also shares its start.
        plug: whether to reward the estimates on the way: for a potential other than "terminal".
        by: another walk to draw with: another denoiser, more noise. By default the walk itself.
    """

    follows_weights = True
    """A thread that draws ahead would meet weights that are being changed."""

    def __init__(
        self,
        walk: Walk,
        shape: Sequence[int],
        batch: int,
        reward: Reward,
        *,
        conditions: Callable[[int, Noise], Any] | None = None,
        each: int = 1,
        one_start: bool = False,
        plug: bool = False,
        by: Walk | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if batch % each:
            raise ValueError(f"OwnWalks: {each} walks for each condition do not divide a batch of {batch}")
        self.walk, self.shape, self.batch, self.reward = walk if by is None else by, tuple(shape), batch, reward
        self.conditions, self.each, self.one_start, self.plug, self.dtype = conditions, each, one_start, plug, dtype

    def next(self, tick: Tick) -> Recorded:
        """Fresh walks."""
        count = self.batch // self.each
        group = torch.arange(count, device=tick.device).repeat_interleave(self.each)
        told = Noise.of(_seeds(tick, count, CONDITION_SLOT), count, tick.device)
        cond = None if self.conditions is None else self.conditions(count, told)
        if cond is not None:
            cond = take(cond, group) if isinstance(cond, Tensor | dict) else cond.take(group)
        seeds = _seeds(tick, self.batch)
        z = _start(self.walk, (self.batch, *self.shape), seeds, self.dtype, tick.device)
        start = z.index_select(0, group * self.each) if self.one_start else z
        grouped = group if self.each > 1 else None
        return recorded(self.walk, start, self.reward, cond, seeds, grouped, self.plug)

    def state(self) -> dict[str, Any]:
        """Nothing: see the class."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing."""


def _seeds(tick: Tick, batch: int, slot: int = 0) -> Tensor:
    """A seed for each walk of the batch, another one at every step."""
    return (tick.noise(batch).uniform((batch,), tick.step, slot) * 2**53).long()


def _start(walk: Walk, shape: Sequence[int], seeds: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Pure noise at the level where the walk begins."""
    path = walk.path
    first = walk.grid.levels(path).t[0]
    z = Noise.of(seeds, shape[0], device).normal(shape, 0, START_SLOT, dtype)
    return z * torch.as_tensor(path.sigma(first)).to(z)
