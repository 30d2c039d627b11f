"""Random solvers: the law of what they sample, against the walk's own law and the data's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import kedge
from kedge.exact import GaussianMixture
from kedge.walk.grids import Levels, LogSNR
from walk.oracles import PATHS, RANDOM, f64, geometric, mixture, rewritten

SIGMAS = 4.5
"""Standard errors of the sample's mean and covariance that are let pass."""


def check_moments(x: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Var of an empirical mean: C_ii / N; of a covariance, were it Gaussian: (C_ii C_jj + C_ij^2) / N."""
    n = len(x)
    variance = covariance.diagonal()
    assert bool(((x.mean(0) - mean).abs() < SIGMAS * (variance / n).sqrt()).all()), (x.mean(0), mean)
    error = ((variance[:, None] * variance + covariance**2) / n).sqrt()
    assert bool(((x.T.cov() - covariance).abs() < SIGMAS * error).all()), (x.T.cov(), covariance)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", RANDOM)
def test_a_coarse_walk_has_its_own_law(path: str, name: str) -> None:
    """With Gaussian data each estimate is affine in the state, hence so is the sample in the start and the noise: its
    mean and covariance follow from the coefficients, columns `[1, start, z_1, z_2, ...]`.
    """
    p, n, d = PATHS[path], 6, 2
    m, C = torch.tensor([0.4, -0.7], dtype=f64), torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=f64)
    one = torch.zeros(d, 1 + d * (n + 1), dtype=f64)
    one[:, 0] = 1
    columns = [torch.zeros_like(one) for _ in range(n + 1)]
    for i, column in enumerate(columns):
        column[:, 1 + d * i : 1 + d * (i + 1)] = torch.eye(d, dtype=f64)

    def D(x: Tensor, t: float) -> Tensor:
        alpha, sigma = p.alpha(t), p.sigma(t)
        gain = alpha * C @ torch.linalg.inv(alpha**2 * C + sigma**2 * torch.eye(d, dtype=f64))
        return m[:, None] * one + gain @ (x - alpha * m[:, None] * one)

    levels = [*geometric(p, 6.0, 0.2, n - 1), 0.0]
    spread = math.hypot(p.alpha(levels[0]), p.sigma(levels[0]))
    A = rewritten(name, p, D, spread * columns[0], levels, columns[1:])
    x = spread * kedge.Noise.of(5, 20_000).normal((20_000, d), step=-1)
    data = GaussianMixture([1.0], m[None], C[None])
    x = kedge.sample(data.denoiser(p), x, Levels(levels), RANDOM[name], seeds=6)
    check_moments(x, A[:, 0], A[:, 1:] @ A[:, 1:].T)
    assert float((A[:, 1:] @ A[:, 1:].T - C).abs().max()) > 0.01  # far from the data's: the check above is no tautology


@pytest.mark.parametrize(
    ("path", "name"), [("VP", name) for name in RANDOM] + [(path, "SDE-2") for path in PATHS if path != "VP"]
)
def test_a_fine_walk_has_the_law_of_the_data(path: str, name: str) -> None:
    p, law, n = PATHS[path], mixture(), 3000
    grid = LogSNR(120, scale_min=0.01, scale_max=20.0)
    t = grid.levels(p).t[0]
    x = law.marginal(p, float(t)).sample(n, seeds=1)
    x = kedge.sample(law.denoiser(p), x, grid, RANDOM[name], seeds=2)
    check_moments(x, law.mean, law.covariance)
    # ... and the mixture's shares and the spread within a component, which the two moments do not tell.
    share = float((x[:, 0] > 0).double().mean())
    exact = float((law.sample(400_000, seeds=3)[:, 0] > 0).double().mean())
    assert abs(share - exact) < SIGMAS * math.sqrt(exact * (1 - exact) * (1 / n + 1 / 400_000))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["DDPM", "2M"])
def test_a_restart_keeps_the_marginal(path: str, name: str) -> None:
    """Down, up by the path's noise, and down again. The walk is fine enough, and the noise is the right amount."""
    p, law, n = PATHS[path], mixture(), 3000
    high, low = 3.0, 0.02
    down = geometric(p, high, low, 40)
    again = geometric(p, 1.0, low, 30)
    x = law.marginal(p, down[0]).sample(n, seeds=1)
    solver = (RANDOM | {"2M": kedge.solvers.DPMSolverPP(2)})[name]
    x = kedge.sample(
        law.denoiser(p), x, Levels([*down, *again, again[0], *again[1:], 0.0], rise="noise"), solver, seeds=4
    )
    check_moments(x, law.mean, law.covariance)


@pytest.mark.parametrize("path", PATHS)
def test_a_rise_alone_has_the_marginal_above(path: str) -> None:
    p, law, n = PATHS[path], mixture(), 20_000
    s, t = p.time_at(0.3), p.time_at(1.0)
    x = law.marginal(p, s).sample(n, seeds=1)
    x = kedge.sample(law.denoiser(p), x, Levels([s, t], rise="noise"), seeds=4)
    above = law.marginal(p, t)
    check_moments(x, above.mean, above.covariance)
    clean = kedge.sample(law.denoiser(p), law.sample(n, seeds=1), Levels([0.0, t], rise="noise"), seeds=4)
    check_moments(clean, above.mean, above.covariance)
