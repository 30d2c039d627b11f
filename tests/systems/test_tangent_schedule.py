"""The tangent schedule: what DDIM makes of a Gaussian is known for every grid, and so is the best grid."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kedge import sample, solvers
from kedge.distill import Subject, free_grid, gauss_kl, tangent, variances_of
from kedge.exact import GaussianMixture
from kedge.paths import GaussianPath, Rectified, Trig, VarianceExploding, VariancePreserving
from kedge.walk.grids import Cosine, Levels, LogSNR, Rho, Tangent
from kedge.walk.grids.levels import Grid

pytestmark = pytest.mark.system

f64 = torch.float64
PATH = VarianceExploding()
HIGH, LOW = 80.0, 0.002
TWO = torch.tensor([1.0, 0.04], dtype=f64)
POWER = (torch.arange(16, dtype=f64) + 1) ** -2.0


def scales(grid: Grid, path: GaussianPath = PATH) -> Tensor:
    rows = [float(t) for t in grid.levels(path).rows()]
    assert rows[-1] == 0
    return torch.tensor([path.noise_scale(t) for t in rows[:-1]], dtype=f64)


@pytest.mark.parametrize("path", [PATH, VariancePreserving(), Trig(0.5), Rectified()], ids=repr)
def test_the_formula_is_what_a_walk_makes(path: GaussianPath) -> None:
    """The walk is linear, so that where unit starts end is its matrix: exact, where samples would have an error."""
    variances = torch.tensor([1.0, 0.3, 0.04], dtype=f64)
    law = GaussianMixture([1.0], torch.zeros(1, 3, dtype=f64), variances[None])
    r = scales(Rho(6, 3.0, 0.05, 9.0), path)
    times = [path.time_at(float(s)) for s in r]
    x = solvers_end(law, path, times, torch.eye(3, dtype=f64) * path.sigma(times[0]))
    rho = x.diagonal() ** 2 / variances
    assert x.abs().sum() - x.diagonal().abs().sum() < 1e-12
    wanted = 0.5 * (rho - 1 - rho.log()).sum()
    assert float(gauss_kl(r, variances)) == pytest.approx(float(wanted), rel=1e-9)
    assert float(wanted) > 1e-3


def solvers_end(law: GaussianMixture, path: GaussianPath, times: list[float], start: Tensor) -> Tensor:
    return sample(law.denoiser(path), start, Levels([*times, 0.0]), solvers.DDIM())


def test_samples_have_the_covariance_of_the_formula() -> None:
    """By Monte Carlo, within four standard errors."""
    r, count = scales(Rho(5, 7.0, 0.05, HIGH)), 40_000
    law = GaussianMixture([1.0], torch.zeros(1, 2, dtype=f64), TWO[None])
    x = solvers_end(law, PATH, r.tolist(), PATH.prior((count, 2), 0, dtype=f64))
    s = torch.cat([r, r.new_zeros(1)])
    wanted = r[0] ** 2 * (((TWO[:, None] + s[:-1] * s[1:]) / (TWO[:, None] + s[:-1] ** 2)) ** 2).prod(1)
    assert bool(((x.var(0) / wanted - 1).abs() < 4 * math.sqrt(2 / count)).all())


@pytest.mark.parametrize("lam", [0.1, 1.0, 5.0])
def test_of_one_variance_gamma_is_its_root_and_the_error_the_papers(lam: float) -> None:
    """Noise without end; the error of the log standard deviation is `-(pi / 2)^2 / (2 N)`, so the entropy falls as
    1 / N^2.
    """
    variances, endless = torch.tensor([lam], dtype=f64), 1e7 * math.sqrt(lam)
    gamma = tangent(variances, 20, endless).gamma
    assert abs(gamma / math.sqrt(lam) - 1) < 1e-3
    found = [float(gauss_kl(scales_of(math.sqrt(lam), n, endless), variances)) for n in (40, 80)]
    assert math.log2(found[0] / found[1]) == pytest.approx(2, abs=0.15)
    off = (math.pi / 2) ** 2 / (2 * 80)  # KL = 1/2 (rho - 1 - ln rho) with rho = e^(2 off)
    assert found[1] == pytest.approx(off**2, rel=0.05)


def scales_of(gamma: float, n: int, high: float) -> Tensor:
    return gamma * ((1 - torch.arange(n, dtype=f64) / n) * math.atan(high / gamma)).tan()


def by_hand(n: int) -> dict[str, Grid]:
    """With a step to spare for the clean end, which the tangent law's own last level is."""
    return {
        "cosine": Tangent(n, 1.0, HIGH), "cosine, ended": Cosine(n, LOW, HIGH), "rho": Rho(n, 7.0, LOW, HIGH),
        "log-SNR": LogSNR(n, LOW, HIGH), "linear": Levels([HIGH * (1 - i / n) for i in range(n + 1)]),
    }  # fmt: skip


@pytest.mark.parametrize("variances", [TWO, POWER], ids=["two", "power law"])
@pytest.mark.parametrize("n", [5, 10, 20])
def test_its_entropy_is_far_below_that_of_grids_by_hand(variances: Tensor, n: int) -> None:
    """And levels that are all free come lower still."""
    own = float(gauss_kl(scales(tangent(variances, n, HIGH)), variances))
    others = [float(gauss_kl(scales(grid), variances)) for grid in by_hand(n).values()]
    assert own < 0.7 * min(others)
    free = float(gauss_kl(scales(free_grid(variances, n, HIGH)), variances))
    assert free < own * (1 + 1e-9)


def test_free_levels_are_at_a_minimum() -> None:
    """Each level moved by a percent either way, and one direction alone gives the tangent law back."""
    best = scales(free_grid(POWER, 6, HIGH))
    least = float(gauss_kl(best, POWER))
    for i in range(1, 6):
        for by in (0.99, 1.01):
            moved = best.clone()
            moved[i] *= by
            assert float(gauss_kl(moved, POWER)) > least
    one = torch.tensor([0.3], dtype=f64)
    wanted = scales(Tangent(5, math.sqrt(0.3), HIGH))
    assert float((scales(free_grid(one, 5, HIGH)) / wanted - 1).abs().max()) < 0.02


def test_the_spectrum_is_that_of_what_is_left_once_the_known_is_told() -> None:
    """Of a Gaussian the covariance given the known entries, by Schur's complement."""
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(4, 4, dtype=f64, generator=generator)
    C = A @ A.T + 0.1 * torch.eye(4, dtype=f64)
    x = torch.randn(20_000, 4, dtype=f64, generator=generator) @ torch.linalg.cholesky(C).T
    law = GaussianMixture([1.0], torch.zeros(1, 4, dtype=f64), C[None])
    known = torch.tensor([True, False, False, False])
    found = variances_of(Subject(law.denoiser(PATH), x, LOW, HIGH, known=known))
    wanted = torch.linalg.eigvalsh(C[1:, 1:] - C[1:, :1] @ C[:1, 1:] / C[0, 0]).flip(0)
    assert bool(((found / wanted - 1).abs() < 5 * math.sqrt(2 / len(x))).all())


def test_impossible_gammas_are_refused() -> None:
    with pytest.raises(ValueError, match="gamma is a spread, above 0, not 0"):
        Tangent(4, 0.0).levels(PATH)
