"""A point robot that goes from left to right by one of three lanes: the exact law of its demonstrations, which know of
no constraint, as positions and velocities.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from kedge.constrain import HalfSpace, Moves, OutsideDisc
from kedge.exact import GaussianMixture

H, DT = 8, 0.25
"""Points, and the time from one to the next."""
LANES, ENDS = (-0.6, 0.0, 0.6), (-0.5, 0.0, 0.5)
SLIP = 0.02
"""By how much a step may miss what the model of the robot says."""
f64 = torch.float64

CONSTRAINTS = (
    Moves.by_velocity(DT),
    OutsideDisc(1.0, 0.1, 0.3),
    OutsideDisc(1.5, -0.35, 0.15),
    HalfSpace([0.0, 1.0], 0.5),
)
"""Unseen: two discs on the ways that were demonstrated, and a wall before the upper lane."""


def law() -> GaussianMixture:
    """Nine ways; the velocities are those of the steps, but for a little noise that nothing explains."""
    x = torch.linspace(0, 2, H, dtype=f64)
    ways = []
    for lane, end in product(LANES, ENDS):
        up = torch.sin(torch.pi * x / 2) * lane + (x / 2) ** 2 * end
        ways.append(torch.stack([x, up], 1).flatten())
    k = torch.arange(H, dtype=f64)
    along = 0.06**2 * torch.exp(-((k[:, None] - k) ** 2) / 8) + 1e-4 * torch.eye(H, dtype=f64)
    along = torch.kron(along, torch.eye(2, dtype=f64))
    known = with_velocities(torch.eye(2 * H, dtype=f64).unflatten(1, (H, 2))).flatten(1).T
    rough = torch.tensor([0.0, 0.0, 0.05**2, 0.05**2], dtype=f64).repeat(H) + 1e-6
    covariance = known @ along @ known.T + torch.diag(rough)
    means = torch.stack(ways) @ known.T
    return GaussianMixture([1.0] * 9, means.unflatten(1, (H, 4)), covariance.expand(9, -1, -1))


def with_velocities(p: Tensor) -> Tensor:
    """`[B, H, 2] -> [B, H, 4]`; the last velocity is the one before."""
    u = p.diff(dim=1) / DT
    return torch.cat([p, torch.cat([u, u[:, -1:]], 1)], 2)


def acted(p: Tensor, u: Tensor, push: Tensor) -> Tensor:
    """The real robot: it slips, in any direction, by what the constraints are tightened by at most."""
    return p + DT * u + SLIP * push / push.norm(dim=1, keepdim=True).clamp(min=1)


def arrived(path: Tensor) -> Tensor:
    """Whether it has come to where demonstrations end."""
    last = path[:, -1]
    return ((last[:, 0] - 2).abs() < 0.25) & ((last[:, 1:] - last.new_tensor(ENDS)).abs().amin(1) < 0.25)
