"""Who acts, and what it costs to be as sure of an action as that: a squashed Gaussian, or a walk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from kedge.cond import Cond
from kedge.kernels import Gaussian
from kedge.nets.contract import check_sizes
from kedge.noise import Noise
from kedge.rl.action_value import normed
from kedge.slots import ACTION_SLOT, ACTION_START_SLOT
from kedge.tree import first_leaf, sum_event
from kedge.walk import Walk
from kedge.walk.grids.noised import Noised
from kedge.walk.hooks.record import Record


@runtime_checkable
class Actor(Protocol):
    """A policy whose actions can be differentiated."""

    def sample(self, state: Tensor, noise: Noise, step: int) -> tuple[Tensor, Tensor]:
        """Actions `[B, A]`, and the entropy cost `[B]` of each: `log pi(a | s)`, or what has no lesser mean. Gradients
        flow through both where they are switched on.
        """
        ...

    def act(self, state: Tensor, noise: Noise, step: int) -> Tensor:
        """The same actions alone."""
        ...


class Squash(nn.Module):
    """`a = limit tanh(u)`: what can be done is bounded."""

    def __init__(self, limit: float = 1.0) -> None:
        super().__init__()
        if not limit > 0:
            raise ValueError(f"Squash: the limit must be positive, got {limit}")
        self.limit = limit

    def forward(self, u: Tensor) -> Tensor:
        """Each entry."""
        return self.limit * u.tanh()

    def log_slope(self, u: Tensor) -> Tensor:
        """`[B]`: `sum log da/du = sum log limit + 2 (log 2 - u - softplus(-2 u))`, without cancellation far out."""
        return sum_event(math.log(self.limit) + 2 * (math.log(2) - u - functional.softplus(-2 * u)))


class SquashedGaussian(nn.Module):
    """`a = limit tanh(u)` with `u ~ N(m(s), std(s)^2)`, and its exact density.

    Haarnoja et al., "Soft actor-critic algorithms and applications", 2018, appendix C.

    state:      of a state
    action:     of an action
    hidden:     widths of the hidden layers
    limit:      of an action's entries
    log_std:    the range in which the logarithm of std stays
    activation: "mish", "silu", "gelu", "relu" or "tanh"
    norm:       whether each layer is normalised before its activation
    """

    def __init__(
        self,
        state: int,
        action: int,
        hidden: Sequence[int] = (128, 128, 128),
        *,
        limit: float = 1.0,
        log_std: tuple[float, float] = (-5.0, 2.0),
        activation: str = "tanh",
        norm: bool = True,
    ) -> None:
        super().__init__()
        check_sizes("SquashedGaussian", state=state, action=action)
        self.body = nn.Sequential(*normed("SquashedGaussian", state, hidden, activation, norm))
        self.head = nn.Linear(hidden[-1], 2 * action)
        self.squash, self.log_std = Squash(limit), log_std

    def law(self, state: Tensor) -> Gaussian:
        """Of u."""
        mean, raw = self.head(self.body(state)).chunk(2, 1)
        low, high = self.log_std
        return Gaussian(mean, (low + (high - low) * (raw.tanh() + 1) / 2).exp())

    def sample(self, state: Tensor, noise: Noise, step: int) -> tuple[Tensor, Tensor]:
        """Actions and their log-densities."""
        law = self.law(state)
        u = first_leaf(law.draw(noise, step, ACTION_SLOT))
        return self.squash(u), sum_event(law.log_prob(u)) - self.squash.log_slope(u)

    def act(self, state: Tensor, noise: Noise, step: int) -> Tensor:
        """Actions alone."""
        return self.sample(state, noise, step)[0]


class DenoisingActor(nn.Module):
    """`pi(a^{0:K} | s)`: a walk from noise `a^K`, conditioned on the state (the field "state" of a `Cond`), whose last
    state is the action. The density of the action alone is an integral over all that may have led to it. In its place
    stands the cost of the path,

        l(s, a^{0:K}) = log p(a^K) + sum_k log pi(a^{k-1} | a^k, s) - sum_k log q(a^k | a^{k-1})

    with q the path's own noising. Given an action, l is `log pi(a | s)` and the divergence of how the policy came there
    from how noising would have gone: its mean over both is at least minus the entropy, and exactly that where each
    step is the reverse of its noising. So `E l - Q / alpha` bounds the divergence from `e^{Q / alpha} / Z`.

    Sanokowski, Patil and Knoll, "A diffusion model framework for maximum entropy reinforcement learning", 2025. With
    one step from pure noise, the start says nothing of the action, and what is left is a Gaussian policy.

    Args:
        walk: with a random solver. A clean last level is left out: the step to it would have no density. Hooks may
            widen steps by what the network says (`kedge.hooks.LearnedStd`); without, their widths are the
            solver's.
        dim: of an action.
        limit: actions are squashed to that; None: they are as they come.
    """

    def __init__(self, walk: Walk, dim: int, limit: float | None = 1.0) -> None:
        super().__init__()
        check_sizes("DenoisingActor", dim=dim)
        if walk.solver.density != "step":
            raise ValueError(f"DenoisingActor: the steps of {walk.solver} have no density of their own; use DDPM()")
        self.denoiser, self.dim = walk.denoiser, dim
        self.walk = replace(walk, grid=Noised(walk.grid))
        self.sigma = float(walk.path.sigma(float(self.walk.grid.levels(walk.path).t[0])))
        self.squash = None if limit is None else Squash(limit)

    def sample(self, state: Tensor, noise: Noise, step: int) -> tuple[Tensor, Tensor]:
        """Actions and the costs of the paths to them."""
        record = self.record(state, noise, step)
        u, cost = first_leaf(record.x[-1]), path_cost(record)
        return (u, cost) if self.squash is None else (self.squash(u), cost - self.squash.log_slope(u))

    def act(self, state: Tensor, noise: Noise, step: int) -> Tensor:
        """Actions alone."""
        u = first_leaf(self.record(state, noise, step).x[-1])
        return u if self.squash is None else self.squash(u)

    def record(self, state: Tensor, noise: Noise, step: int) -> Record:
        """The walks."""
        record, begun = Record(), len(state)
        start = self.sigma * noise.normal((begun, self.dim), step, ACTION_START_SLOT, state.dtype)
        recording = replace(self.walk, hooks=[*self.walk.hooks, record])
        recording.run(start, Cond.of(state=state), seeds=noise.seeds(step, ACTION_SLOT), grad=torch.is_grad_enabled())
        return record


def path_cost(record: Record) -> Tensor:
    """`[B]`: `log p(x^K) + sum_k log pi(x^{k-1} | x^k) - sum_k log q(x^k | x^{k-1})` of recorded walks from pure noise,
    all of whose steps are random; p is the path's noise at the first level.
    """
    if len(record.random_steps) < len(record.steps):
        raise ValueError("a path has a cost where all of its steps are random: end it above the clean level")
    first = record.states[0]
    prior = Gaussian(torch.zeros_like(first_leaf(record.x[0])), first.walk.path.sigma(first.t))
    return sum_event(prior.log_prob(record.x[0])) + record.log_prob().sum(0) - record.log_prob_back().sum(0)
