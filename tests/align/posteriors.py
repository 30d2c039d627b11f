"""Posteriors of one number: one that is Gaussian, and one with two modes of different weight, known on a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kedge.exact import GaussianMixture

f64 = torch.float64
GRID = torch.linspace(-8.0, 8.0, 4001, dtype=f64)
CELL = float(GRID[1] - GRID[0])


@dataclass(frozen=True)
class Posterior:
    """`z ~ N(mean, std^2)`, `x ~ N(z^2, noise^2)`, or `x ~ N(z, noise^2)` where it is not squared."""

    mean: float = 0.5
    std: float = 1.5
    noise: float = 0.3
    squared: bool = True

    @property
    def prior(self) -> GaussianMixture:
        return GaussianMixture([1.0], torch.tensor([[self.mean]], dtype=f64), [self.std**2])

    def log_likelihood(self, z: Tensor, x: Tensor) -> Tensor:
        seen = z[:, 0] ** 2 if self.squared else z[:, 0]
        return -0.5 * ((x - seen) / self.noise) ** 2 - math.log(self.noise) - 0.5 * math.log(2 * math.pi)

    def on_grid(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[n, grid]` log-densities of `z | x`, and `[n]` log-evidences."""
        z = GRID[:, None]
        joint = torch.stack([self.prior.log_prob(z) + self.log_likelihood(z, x_i.expand(len(z))) for x_i in x])
        log_z = joint.logsumexp(1) + math.log(CELL)
        return joint - log_z[:, None], log_z

    def divergence(self, log_q: Tensor, x: Tensor) -> Tensor:
        """`[n]`: `KL(p(z | x) || q)`, q on the grid."""
        log_p = self.on_grid(x)[0]
        return (log_p.exp() * (log_p - log_q)).sum(1) * CELL

    def above(self, x: Tensor) -> Tensor:
        """`[n]`: `P(z > 0 | x)`."""
        return (self.on_grid(x)[0].exp() * (GRID > 0)).sum(1) * CELL
