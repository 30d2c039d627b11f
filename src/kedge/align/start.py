"""The law of a walk's start, learned; the denoiser stays as it is, and is never asked for a gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kedge.align.rewards import Reward, rewarded
from kedge.cond import take_cond
from kedge.noise import Noise, Seeds
from kedge.rl.objectives import clipped, share_clipped
from kedge.slots import BEGIN_SLOT, WALK_SLOT
from kedge.train import OptimiserSpec, Part, Tick
from kedge.tree import sum_event
from kedge.walk import Walk


class Start(nn.Module):
    """`x_T = sigma_T z` with `z ~ N(mean, std^2)` in each entry: a walk's own start where mean is 0 and std 1.

    `walk.run(start.draw(n))` then walks from there.

    Args:
        walk: whose first level it is of. It is not a part of this module, and does not move.
        shape: of a sample.
    """

    def __init__(self, walk: Walk, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(tuple(shape), dtype=dtype))
        self.log_std = nn.Parameter(torch.zeros(tuple(shape), dtype=dtype))
        self.sigma = float(torch.as_tensor(walk.path.sigma(walk.grid.levels(walk.path).t[0])))

    @torch.no_grad()
    def draw(self, count: int, seeds: Seeds = None) -> Tensor:
        """Starts of walks."""
        return self.sigma * self.standard(Noise.of(seeds, count, self.mean.device), 0)

    @torch.no_grad()
    def standard(self, noise: Noise, step: int) -> Tensor:
        """`z`, in units of the noise at the first level."""
        e = noise.normal((len(noise.key), *self.mean.shape), step, BEGIN_SLOT, self.mean.dtype)
        return self.mean + self.log_std.exp() * e

    def log_prob(self, z: Tensor) -> Tensor:
        """Of each entry."""
        scaled = (z - self.mean) * (-self.log_std).exp()
        return -(scaled**2) / 2 - self.log_std - math.log(2 * math.pi) / 2

    def divergence(self) -> Tensor:
        """`KL(N(mean, std^2) | N(0, 1))`, summed over entries."""
        return ((self.mean**2 + (2 * self.log_std).exp() - 1) / 2 - self.log_std).sum()


@dataclass(frozen=True, eq=False)
class Started:
    """Starts and what became of them.

    z:      `[B, ...]`, in units of the noise at the first level
    old:    `[B, ...]`, the log-density of each entry under the law that drew it
    reward: `[B]`, of the ends; 0 where it failed
    counts: `[B]` booleans, False where the reward failed; None: all count
    """

    z: Tensor
    old: Tensor
    reward: Tensor
    counts: Tensor | None = None


class OwnStarts:
    """A source of batches: starts of the law as it is at that moment, walked to their ends. A function of the tick.

    Args:
        start: the law.
        walk: from there.
        batch: starts in a batch.
        reward: of clean samples; it need not be differentiable.
        cond: one condition, with a batch axis of 1, that all walk for.
    """

    follows_weights = True

    def __init__(self, start: Start, walk: Walk, batch: int, reward: Reward, cond: Any = None) -> None:
        self.start, self.walk, self.batch, self.reward, self.cond = start, walk, batch, reward, cond

    @torch.no_grad()
    def next(self, tick: Tick) -> Started:
        """Fresh starts, walked and rewarded."""
        noise = tick.noise(self.batch)
        z = self.start.standard(noise, tick.step)
        cond = take_cond(self.cond, torch.zeros(self.batch, dtype=torch.int64, device=z.device))
        seeds = tick.seeds(self.batch, WALK_SLOT)
        worth = rewarded(self.reward, self.walk.run(self.start.sigma * z, cond, seeds=seeds).x, cond)
        return Started(z, self.start.log_prob(z), worth.value.to(z), worth.counts)

    def state(self) -> dict[str, Any]:
        """Nothing: see the class."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing."""


class StartGradient(nn.Module):
    """Raises the reward of where walks from a learned start end: `-E min(r A, clip(r) A)`, with r the ratio of a
    start's density to that under the law that drew it, and `A = reward - v(mean, std)`, v a small network that learns
    what the law is worth as it moves.

    "FIND: fine-tuning initial noise distribution with policy optimization for diffusion models". Give its part a
    `repeat` to learn from each batch more than once.

    Args:
        start: the law that is learned.
        clip: how far a ratio may leave 1 before its start stops pushing.
        penalty: times the divergence of the law from `N(0, 1)`, added to the loss.
        average: the mean of log-densities over a start's entries instead of their sum, as released code does: ratios
            are then nearer to 1, and are none.
        width: of v's one hidden layer.
    """

    def __init__(
        self, start: Start, *, clip: float = 0.2, penalty: float = 0.0, average: bool = False, width: int = 32
    ) -> None:
        super().__init__()
        self.start, self.clip, self.penalty, self.average = start, clip, penalty, average
        size = 2 * start.mean.numel()
        layers = nn.Linear(size, width), nn.Tanh(), nn.Linear(width, 1)
        self.value = nn.Sequential(*layers).to(start.mean.dtype)
        nn.init.zeros_(layers[2].weight)
        nn.init.zeros_(layers[2].bias)

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps: the law and its value, on this loss."""
        return Part(self, self, optimiser, **options)

    def forward(self, batch: Started, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The loss of each start `[B]`, and what to log."""
        counts = torch.ones_like(batch.reward) if batch.counts is None else batch.counts.to(batch.reward)
        told = torch.cat([self.start.mean.flatten(), self.start.log_std.exp().flatten()]).detach()
        value = self.value(told)[0]
        A = (batch.reward - value).detach() * counts
        log_ratio = sum_event(self.start.log_prob(batch.z) - batch.old, self.average)
        loss = clipped(log_ratio, A, self.clip) + (batch.reward - value) ** 2 * counts
        divergence = self.start.divergence()
        info = {
            "reward": batch.reward.sum() / counts.sum(),
            "failed": 1 - counts.mean(),
            "value": value.detach(),
            "divergence": divergence.detach(),
            "clipped": share_clipped(log_ratio.detach(), A, self.clip),
        }
        return loss + self.penalty * divergence, info
