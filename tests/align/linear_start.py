"""A deterministic walk of Gaussian data, which is linear in its start, and a quadratic reward of its end."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from align.gaussian_walk import DIM, PATH
from align.gaussian_walk import walk as gaussian_walk
from kedge import Walk
from kedge.align import Start
from kedge.exact.mixture import Quadratic

f64 = torch.float64
A = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 0.3]], dtype=f64)
REWARD = Quadratic(A, torch.tensor([1.5, -0.4, 0.3], dtype=f64))


def reward(x: Any, cond: Any = None) -> Tensor:
    return REWARD(x)


def law() -> tuple[Walk, Start]:
    made = gaussian_walk(5, eta=0.0, seed=1)
    return made, Start(made, (DIM,), dtype=f64)


def line(made: Walk) -> tuple[Tensor, Tensor]:
    """A deterministic walk of Gaussian data is affine: `x_0 = slope z + offset`, entry by entry."""
    rows = made.grid.levels(PATH).rows()
    x = torch.stack([torch.zeros(DIM), torch.full((DIM,), PATH.sigma(float(rows[0])))]).double()
    with torch.no_grad():
        for (t, _), (a, b, _) in zip(pairwise(rows), made.solver.plan(PATH, rows), strict=True):
            x = a * x + b * made.denoiser(x, t)
    return x[1] - x[0], x[0]
