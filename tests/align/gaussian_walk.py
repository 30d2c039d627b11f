"""A walk all of whose laws are Gaussian: an exact denoiser with a shift at each level to be learned."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from kedge import Walk, grids, solvers
from kedge.paths import Trig

PATH = Trig(sigma_data=1.0, scale_max=1000.0)
MEAN, STD = 0.3, 0.6
DIM = 3
TOP = 1000.0
"""The noise scale that a walk begins at: its end forgets it."""


def exact(x: Tensor, t: float) -> Tensor:
    """`E[x | x_t]` of data `N(MEAN, STD^2)`."""
    alpha, sigma = PATH.alpha(t), PATH.sigma(t)
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


class Shifted(nn.Module):
    """`D(x, t) = E[x | x_t] + b(t)`, one b for each level and entry."""

    def __init__(self, times: list[float], seed: int | None = None) -> None:
        super().__init__()
        self.path, self.times = PATH, times
        generator = torch.Generator().manual_seed(seed or 0)
        b = torch.randn(len(times), DIM, generator=generator, dtype=torch.float64)
        self.b = nn.Parameter(torch.zeros_like(b) if seed is None else 0.1 * b)

    def forward(self, x: Tensor, t: float) -> Tensor:
        """The estimate."""
        return exact(x, t) + self.b[self.times.index(t)]


def walk(steps: int = 4, eta: float = 1.0, seed: int | None = None) -> Walk:
    """From pure noise to data; ancestral with eta 1. Its last step is without variance, as always."""
    grid = grids.LogSNR(steps, 0.1, TOP)
    times = [float(t) for t in grid.levels(PATH).t[:-1]]
    return Walk(Shifted(times, seed), solvers.DDIM(eta), grid)


def ends(walk: Walk, start: float = 1.0) -> tuple[Tensor, Tensor]:
    """Mean and variance `[D]` of where the walk ends, by propagating both through its steps as they are, for starts of
    so many times the variance that they have: 0 is the law of ends from one start.
    """
    probes = torch.stack([torch.zeros(DIM), torch.ones(DIM)]).double()
    first = walk.grid.levels(PATH).t
    variance = torch.full((DIM,), start * PATH.sigma(float(first[0])) ** 2, dtype=torch.float64)
    mean = torch.zeros(DIM, dtype=torch.float64)
    rows = [float(t) for t in first]
    with torch.no_grad():
        for (t, s), (a, b, std) in zip(pairwise(rows), walk.solver.plan(PATH, rows), strict=True):
            low, high = (a * x + b * walk.denoiser(x[None], t)[0] for x in probes)
            slope = high - low
            mean, variance = slope * mean + low, slope**2 * variance + std**2
            assert s < t
    return mean, variance
