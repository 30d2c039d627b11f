"""Transition kernels: what one step of a walk proposes, before it is drawn.

Because a step returns a kernel, alignment, filters and value guidance read, shift or score the very transition that the
sampler uses, and there is one loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from kedge.elementary import Level
from kedge.matrix import Matrix
from kedge.noise import SLOTS, Noise, normal_like
from kedge.tree import Tree, lead, take, tree_map


@runtime_checkable
class Kernel(Protocol):
    """One transition, for a batch."""

    def draw(self, noise: Noise, step: int, slot: int = 0) -> Tree:
        """A draw, reparametrised where it can be. Slot 0 is the walk's own; a hook that draws takes another."""
        ...

    def log_prob(self, x: Tree) -> Tree:
        """Log-density per entry; `tree.sum_event` is the one place that sums."""
        ...

    def kl(self, other: Kernel) -> Tree:
        """Kullback-Leibler divergence to `other`, per entry."""
        ...

    def take(self, index: Tensor) -> Kernel:
        """The kernels of the samples at `index`."""
        ...


class NoDensityError(ValueError):
    """A density was asked of a step that has none."""


@dataclass(frozen=True, eq=False)
class Point:
    """A deterministic transition. It ignores the noise and has no density."""

    mean: Tree

    @property
    def variance(self) -> Tree:
        """0, per entry."""
        return tree_map(torch.zeros_like, self.mean)

    def draw(self, noise: Noise, step: int, slot: int = 0) -> Tree:
        """The point itself."""
        return self.mean

    def log_prob(self, x: Tree) -> Tree:
        """Refused: a point mass has no density."""
        raise NoDensityError(
            "this step is deterministic and has no density; use a stochastic solver (DDPM, DDIM(eta=1))"
        )

    def kl(self, other: Kernel) -> Tree:
        """Refused: a point mass has no density."""
        raise NoDensityError(
            "this step is deterministic and has no divergence; use a stochastic solver (DDPM, DDIM(eta=1))"
        )

    def take(self, index: Tensor) -> Point:
        """The points of the samples at `index`."""
        return Point(take(self.mean, index))


@dataclass(frozen=True, eq=False)
class Gaussian:
    """`N(mean, std^2)` entry by entry; `std` is a level: one number, or a tensor aligned from the batch axis on.

    An entry whose std is 0 does not move; it counts for nothing in densities and divergences.
    """

    mean: Tree
    std: Level

    @property
    def variance(self) -> Tree:
        """`std^2`, per entry."""
        return tree_map(lambda mean: torch.zeros_like(mean) + self._std(mean) ** 2, self.mean)

    def draw(self, noise: Noise, step: int, slot: int = 0) -> Tree:
        """`mean + std z`."""
        return _moved(self.mean, self.std, normal_like(self.mean, noise, step, slot))

    def log_prob(self, x: Tree) -> Tree:
        """`-((x - mean) / std)^2 / 2 - log std - log(2 pi) / 2`, per entry, in float32 at least."""
        return tree_map(self._density, self.mean, x)

    def _density(self, mean: Tensor, x: Tensor) -> Tensor:
        mean, x = _wide(mean), _wide(x)
        std, moves = self._moving(mean)
        value = -0.5 * ((x - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
        return torch.where(moves, value, 0.0)

    def kl(self, other: Kernel) -> Tree:
        """`log(std' / std) + (std^2 + (mean - mean')^2) / (2 std'^2) - 1/2`, per entry. Infinite where `other` alone
        stands still.
        """
        if not isinstance(other, Gaussian):
            raise NoDensityError(
                f"no divergence between a Gaussian and a {type(other).__name__}: both steps must be Gaussian"
            )
        return tree_map(partial(self._divergence, other), self.mean, other.mean)

    def _divergence(self, other: Gaussian, mean: Tensor, mean_2: Tensor) -> Tensor:
        mean, mean_2 = _wide(mean), _wide(mean_2)
        (std, moves), (std_2, moves_2) = self._moving(mean), other._moving(mean_2)
        value = (std_2 / std).log() + (std**2 + (mean - mean_2) ** 2) / (2 * std_2**2) - 0.5
        return torch.where(moves, torch.where(moves_2, value, math.inf), 0.0)

    def take(self, index: Tensor) -> Gaussian:
        """The kernels of the samples at `index`."""
        return replace(self, mean=take(self.mean, index), std=_taken(self.std, index))

    def _std(self, like: Tensor) -> Level:
        return lead(self.std, like) if isinstance(self.std, Tensor) else self.std

    def _moving(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The std with 1 in place of 0 (which keeps gradients finite), and where it is not 0."""
        std = self._std(like)
        std = std if isinstance(std, Tensor) else torch.full((), std, dtype=like.dtype, device=like.device)
        return torch.where(std > 0, std, 1.0), std > 0


@dataclass(frozen=True, eq=False)
class Exploring(Gaussian):
    """A Gaussian that is drawn from more freely than it is judged: draws are `mean + spread z`, with z held within
    `limit`; densities and divergences are those of `N(mean, std^2)`.

    With `spread = std` that is the law of the draws but for what the limit moves: .27 % of them at a limit of 3.
    """

    spread: Level
    limit: float

    def draw(self, noise: Noise, step: int, slot: int = 0) -> Tree:
        """`mean + spread z`."""
        z = tree_map(lambda z: z.clamp(-self.limit, self.limit), normal_like(self.mean, noise, step, slot))
        return _moved(self.mean, self.spread, z)

    def take(self, index: Tensor) -> Exploring:
        """The kernels of the samples at `index`."""
        return replace(
            self, mean=take(self.mean, index), std=_taken(self.std, index), spread=_taken(self.spread, index)
        )


@dataclass(frozen=True, eq=False)
class Correlated:
    """`N(mean, L L^T)` with L lower triangular, along the last axis or over the fields: see `Matrix`.

    An entry's share of the log-density and of divergences is that of the entry given those before it.
    """

    mean: Tree
    root: Matrix

    @property
    def variance(self) -> Tree:
        """The diagonal of `L L^T`, per entry."""
        return (self.root * Matrix(self.root.values.mT)).diagonal(self.mean)

    def draw(self, noise: Noise, step: int, slot: int = 0) -> Tree:
        """`mean + L z`."""
        return tree_map(torch.add, self.mean, self.root(normal_like(self.mean, noise, step, slot)))

    def log_prob(self, x: Tree) -> Tree:
        """`-z^2 / 2 - log L_ii - log(2 pi) / 2` with `z = L^-1 (x - mean)`, per entry."""
        z = self.root.solve(tree_map(lambda x, mean: _wide(x) - _wide(mean), x, self.mean))
        return tree_map(lambda z, d: -0.5 * z**2 - d.log() - 0.5 * math.log(2 * math.pi), z, self.root.diagonal(z))

    def kl(self, other: Kernel) -> Tree:
        """With `D = L'^-1 L` and `z = L'^-1 (mean - mean')`: `(sum_j D_ij^2 + z_i^2 - 1) / 2 - log D_ii`, per entry."""
        if not isinstance(other, Correlated):
            raise NoDensityError(
                f"no divergence between a Correlated and a {type(other).__name__}: both must be of one path"
            )
        D = Matrix(torch.linalg.solve(other.root.values, self.root.values))
        z = other.root.solve(tree_map(lambda a, b: _wide(a) - _wide(b), self.mean, other.mean))
        spread = (D * Matrix(D.values.mT)).diagonal(z)
        return tree_map(lambda z, v, d: 0.5 * (v + z**2 - 1) - d.log(), z, spread, D.diagonal(z))

    def take(self, index: Tensor) -> Correlated:
        """The kernels of the samples at `index`."""
        values = self.root.values
        return Correlated(
            take(self.mean, index), Matrix(values.index_select(0, index)) if values.ndim > 2 else self.root
        )


@dataclass(frozen=True, eq=False)
class Categorical:
    """One of the classes that lie along the last axis: its entry is 1, the others are 0. `logits` say how likely each
    class is, up to a constant.
    """

    logits: Tree

    @property
    def mean(self) -> Tree:
        """The probability of each class."""
        return tree_map(lambda logits: logits.softmax(-1), self.logits)

    @property
    def variance(self) -> Tree:
        """`p (1 - p)`, per entry."""
        return tree_map(lambda p: p * (1 - p), self.mean)

    def draw(self, noise: Noise, step: int, slot: int = 0) -> Tree:
        """The first class at which the probabilities so far exceed a uniform number."""
        if isinstance(self.logits, Tensor):
            return _chosen(self.logits, noise, step, slot)
        fields = enumerate(self.logits.items())
        return {name: _chosen(leaf, noise, step, slot + i * SLOTS) for i, (name, leaf) in fields}

    def log_prob(self, x: Tree) -> Tree:
        """`log p` at the entry that is 1, 0 at the others, in float32 at least."""
        return tree_map(lambda logits, x: torch.where(x > 0, _wide(logits).log_softmax(-1), 0.0), self.logits, x)

    def kl(self, other: Kernel) -> Tree:
        """`p log(p / p')`, per entry. Infinite where a class is possible here alone."""
        if not isinstance(other, Categorical):
            raise NoDensityError(
                f"no divergence between a Categorical and a {type(other).__name__}: both steps must be of classes"
            )

        def divergence(logits: Tensor, logits_2: Tensor) -> Tensor:
            log_p, log_q = (_wide(one).log_softmax(-1) for one in (logits, logits_2))
            # what is impossible in both is alike there: a difference of infinities is no number
            return log_p.exp() * torch.where(log_p > -math.inf, log_p - log_q, 0.0)

        return tree_map(divergence, self.logits, other.logits)

    def take(self, index: Tensor) -> Categorical:
        """The kernels of the samples at `index`."""
        return Categorical(take(self.logits, index))


def _chosen(logits: Tensor, noise: Noise, step: int, slot: int) -> Tensor:
    so_far = logits.detach().double().softmax(-1).cumsum(-1)
    u = noise.uniform((*logits.shape[:-1], 1), step, slot)
    # over the last one, lest rounding leave a gap above it
    return one_hot((so_far / so_far[..., -1:] <= u).sum(-1), logits.shape[-1]).to(logits)


def _moved(mean: Tree, std: Level, z: Tree) -> Tree:
    if not isinstance(std, Tensor):
        return tree_map(lambda mean, z: mean.add(z, alpha=std), mean, z)
    return tree_map(lambda mean, z: mean + lead(std, mean) * z, mean, z)


def _taken(std: Level, index: Tensor) -> Level:
    return std.index_select(0, index) if isinstance(std, Tensor) and std.ndim > 0 and std.shape[0] > 1 else std


def _wide(x: Tensor) -> Tensor:
    """At least float32: a ratio of densities in half precision is noise."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
