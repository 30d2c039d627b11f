"""A reward that is learned against the sampler: how data differ from the ends of walks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from kedge.align.advantages import Piece, advantages
from kedge.align.policy import StepValue, values_at
from kedge.align.rewards import Reward, rewarded
from kedge.align.walks import Recorded
from kedge.slots import BETWEEN_SLOT, DATA_SLOT
from kedge.train import OptimiserSpec, Part, Tick
from kedge.tree import Tree, first_leaf, lead, leaves, take, tree_map


class Adversary(nn.Module):
    """A critic f of clean samples that raises `E_data f - E_theta f`, whose largest value over functions of slope 1 is
    the Wasserstein-1 distance of the data from the ends of walks; `penalty` times `(|grad f| - 1)^2`, at points between
    the two, is what holds the slope.

    Gulrajani et al., "Improved training of Wasserstein GANs", NeurIPS 2017, eq. 3. Fan and Lee, "Optimizing DDPM
    sampling with shortcut fine-tuning", ICML 2023 (SFT-PG): at the best f, the gradient of that distance is the policy
    gradient of the reward f, so that a sampler of few steps is moved toward the data without any gradient through its
    walk. With `penalty=0` the network holds its slope itself, by `torch.nn.utils.parametrizations.spectral_norm` say.

    Args:
        critic: `f(x) -> [B]` or `[B, 1]`.
        data: all of it, in memory; each update sees as many as there are walks, drawn evenly.
        penalty: of the slope.
    """

    def __init__(self, critic: nn.Module, data: Tree, *, penalty: float = 10.0) -> None:
        super().__init__()
        if penalty < 0:
            raise ValueError(f"Adversary: the penalty of the slope is 0 or more, got {penalty}")
        self.critic, self.data, self.penalty = critic, data, penalty

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps: the critic, on this loss. Options are those of `kedge.train.Part`."""
        options.setdefault("shadows", ())
        options.setdefault("name", "critic")
        options.setdefault("compiles", (self.critic,))
        return Part(self, self, optimiser, **options)

    def reward(self, x: Tree, cond: Any = None) -> Tensor:
        """`f(x)`, as it is now: high where data are and walks do not end."""
        return self.critic(x).reshape(first_leaf(x).shape[0])

    def forward(self, batch: Recorded, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """`f(end) - f(datum) + penalty (|grad f| - 1)^2` of each walk `[B]`, and what to log."""
        end = batch.record.x[-1]
        noise = tick.noise(len(batch.reward))
        u = noise.uniform((len(batch.reward),), tick.step, DATA_SLOT).to(batch.reward.device)
        count = first_leaf(self.data).shape[0]
        datum = take(self.data, (u * count).long().clamp(max=count - 1).to(first_leaf(self.data).device))
        datum = tree_map(lambda one, like: one.to(like), datum, end)
        gap = self.reward(datum) - self.reward(end)
        info = {"gap": gap.detach().mean()}
        if not self.penalty:
            return -gap, info
        slope = self._slope(datum, end, noise.uniform((len(gap),), tick.step, BETWEEN_SLOT))
        return self.penalty * (slope - 1) ** 2 - gap, info | {"slope": slope.detach().mean()}

    def _slope(self, datum: Tree, end: Tree, share: Tensor) -> Tensor:
        """`|grad f|` at `u datum + (1 - u) end`, `[B]`."""
        there = tree_map(lambda d, e: e.lerp(d, lead(share, e)), datum, end)
        there = tree_map(lambda x: x.detach().requires_grad_(), there)
        with torch.enable_grad():
            slopes = torch.autograd.grad(self.reward(there).sum(), leaves(there), create_graph=True)
        return torch.cat([slope.flatten(1) for slope in slopes], 1).norm(dim=1)


@dataclass(frozen=True, eq=False)
class Judged:
    """What a reward that is learned beside says now of where walks ended, in place of what it said when they did."""

    reward: Reward

    def __call__(self, value: Tensor, batch: Recorded) -> Tensor:
        """See the class."""
        with torch.no_grad():
            worth = rewarded(self.reward, batch.record.x[-1], batch.record.states[-1].given)
        return worth.value.to(value)


class WalkValue(nn.Module):
    """`(V(x_t, t) - r)^2` at every random step of recorded walks: its minimiser is the expected reward of a walk from
    there, a baseline for each step that leaves the gradient of `PolicyGradient(value=V)` what it is, with less noise.

    Args:
        value: see `kedge.align.policy.StepValue`; `kedge.rl.NoisyValue(net, path)`, for one.
        pieces: from rewards to what is learned: as in the `PolicyGradient`.
    """

    def __init__(self, value: nn.Module, pieces: Sequence[Piece] = ()) -> None:
        super().__init__()
        self.value, self.pieces = value, tuple(pieces)

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps: the value, on this loss. Options are those of `kedge.train.Part`."""
        options.setdefault("shadows", ())
        options.setdefault("name", "value")
        options.setdefault("compiles", (self.value,))
        return Part(self, self, optimiser, **options)

    def forward(self, batch: Recorded, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The mean over the steps of each walk `[B]`, and what to log."""
        worth = advantages(self.pieces, batch)
        states = [batch.record.states[i] for i in batch.record.random_steps]
        error = ((values_at(cast(StepValue, self.value), states) - worth) ** 2).mean(0)
        if batch.counts is not None:
            error = torch.where(batch.counts, error, 0.0)
        return error, {"error": error.detach().mean()}
