"""A plane with two walls and three gaps in each: trajectories through them, an exact mixture, and sketches of them."""

from __future__ import annotations

from itertools import pairwise, product

import torch
from torch import Tensor

from kedge.exact import GaussianMixture

POINTS, GAPS, OPEN = 16, (-1.0, 0.0, 1.0), 0.25
"""Points of a trajectory; the middles of the gaps, and how far they are open either way."""
WALLS = (0.5, 1.5)
"""Where the walls stand; trajectories go from x = 0 to x = 2."""
ROUTES = tuple(product(GAPS, GAPS, GAPS))
"""Which gap, which gap, and where it ends."""


def smooth(route: tuple[float, ...]) -> Tensor:
    """From (0, 0) through the gaps to the end, straight through the walls."""
    x = torch.linspace(0, 2, POINTS, dtype=torch.float64)
    knots = ((0.0, 0.0), (0.4, route[0]), (0.6, route[0]), (1.4, route[1]), (1.6, route[1]), (2.0, route[2]))
    y = torch.zeros_like(x)
    for (a, p), (b, q) in pairwise(knots):
        w = ((x - a) / (b - a)).clamp(0, 1)
        ease = w * w * (3 - 2 * w)
        y = torch.where((x >= a) & (x <= b), p + (q - p) * ease, y)
    return torch.stack([x, y], 1)


def law() -> GaussianMixture:
    """All routes alike, and around each what hangs together along it."""
    k = torch.arange(POINTS, dtype=torch.float64)
    along = 0.05**2 * torch.exp(-((k[:, None] - k) ** 2) / 18) + 1e-4 * torch.eye(POINTS, dtype=torch.float64)
    covariance = torch.kron(along, torch.eye(2, dtype=torch.float64))
    means = torch.stack([smooth(route) for route in ROUTES])
    return GaussianMixture([1.0] * len(ROUTES), means, covariance.expand(len(ROUTES), -1, -1))


def sketches() -> list[Tensor]:
    """Of each route, drawn so that it cuts the corners of the walls: through the gaps' edges, and a little past."""
    drawn = []
    for route in ROUTES:
        line = smooth(route).clone()
        line[:, 1] = line[:, 1] + 0.45 * torch.sin(torch.pi * line[:, 0] / 2)
        drawn.append(line)
    return drawn


def crosses(x: Tensor) -> Tensor:
    """Whether a trajectory `[B, POINTS, 2]` meets a wall."""
    met = torch.zeros(len(x), dtype=torch.bool)
    a, b = x[:, :-1], x[:, 1:]
    for wall in WALLS:
        through = (a[..., 0] - wall) * (b[..., 0] - wall) <= 0
        w = ((wall - a[..., 0]) / (b[..., 0] - a[..., 0]).where(through, torch.ones(()).to(a))).clamp(0, 1)
        y = a[..., 1] + w * (b[..., 1] - a[..., 1])
        open_ = ((y[..., None] - torch.tensor(GAPS).to(y)).abs() < OPEN).any(-1)
        met |= (through & ~open_).any(1)
    return met
