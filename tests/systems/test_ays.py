"""Align your steps: a bound on the relative entropy of a walk's samples, and the grid that makes it least."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from kedge.distill import Klub, Subject, log_linear, swept
from kedge.distill.partition import nearest
from kedge.exact import GaussianMixture
from kedge.paths import Trig, VariancePreserving
from kedge.walk.grids import Cosine, LogSNR, Rho
from kedge.walk.grids.levels import Grid
from systems.fitted import HIGH, LOW, PATH, f64

pytestmark = pytest.mark.system

C2 = 0.09
"""The variance of the Gaussian."""


@cache
def gaussian() -> Klub:
    law = GaussianMixture([1.0], torch.zeros(1, 1, dtype=f64), [C2])
    return Klub.measured(Subject(law.denoiser(PATH), law.sample(6000, seeds=0), LOW, HIGH))


def exactly(r: float, s: float) -> float:
    """`int_s^r t^-3 E |D(y_t, t) - D(y_r, r)|^2 dt` of a Gaussian: the estimate at r is the mean of that at t, so that
    the variance between them is `c^4 / (c^2 + t^2) - c^4 / (c^2 + r^2)`.
    """
    return quad(lambda t: t**-3 * C2**2 * (1 / (C2 + t * t) - 1 / (C2 + r * r)), s, r, limit=200, points=[0.1])[0]


@pytest.mark.parametrize("n", [3, 10])
def test_the_estimate_of_the_bound_is_within_two_percent(n: int) -> None:
    klub = gaussian()
    places = nearest(klub.scales, [HIGH * (LOW / HIGH) ** (i / n) for i in range(n + 1)])
    wanted = sum(exactly(klub.scales[i], klub.scales[j]) for i, j in pairwise(places))
    assert klub.bound(places) == pytest.approx(wanted, rel=0.02)


def test_second_order_goes_by_the_line_through_two_estimates() -> None:
    """The cost of a step, from the samples themselves."""
    klub, generator = gaussian(), torch.Generator().manual_seed(3)
    before, i, j = 30, 50, 70
    r = torch.tensor(klub.scales, dtype=f64)
    x = math.sqrt(C2) * torch.randn(20_000, dtype=f64, generator=generator)
    y = {}
    last = 0.0
    for k in [*range(j, i - 1, -1), before]:
        x = x + (r[k] ** 2 - last**2).sqrt() * torch.randn(len(x), dtype=f64, generator=generator)
        y[k], last = x * C2 / (C2 + r[k] ** 2), float(r[k])
    slope = (y[i] - y[before]) / (r[before] / r[i]).log()
    f = [float((y[k] - y[i] - slope * (r[i] / r[k]).log()).square().mean() / r[k] ** 2) for k in range(i, j + 1)]
    wanted = sum(0.5 * (a + b) * float((r[k] / r[k + 1]).log()) for k, (a, b) in enumerate(pairwise(f), i))
    assert klub.second(before, i, j) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("path", [VariancePreserving(), Trig(0.5)], ids=repr)
def test_it_is_the_same_on_every_path(path: VariancePreserving | Trig) -> None:
    law = GaussianMixture([0.4, 0.6], torch.tensor([[-0.5], [0.5]], dtype=f64), [0.04, 0.01])
    x = law.sample(20, seeds=0)
    found = [Klub.measured(Subject(law.denoiser(p), x, LOW, HIGH), 12).gram for p in (PATH, path)]
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


@cache
def mixture() -> GaussianMixture:
    means = torch.tensor([[-1.0], [-0.4], [0.3], [1.0]], dtype=f64)
    return GaussianMixture([0.3, 0.2, 0.1, 0.4], means, [0.01, 0.0025, 0.04, 0.01])


@cache
def measured() -> Klub:
    law = mixture()
    return Klub.measured(Subject(law.denoiser(PATH), law.sample(1000, seeds=1), LOW, HIGH))


def test_the_bound_falls_with_each_sweep_nearly_to_the_least_there_is() -> None:
    klub = measured()
    for n in (5, 10):
        places, history = klub.search(n)
        assert all(b <= a for a, b in pairwise(history))
        assert history[-1] == pytest.approx(klub.bound(places))
        assert history[-1] < 0.9 * history[0]
        assert klub.bound(klub.best(n)) <= history[-1] < 1.2 * klub.bound(klub.best(n))
    second = klub.search(5, order=2)[1]
    assert all(b <= a for a, b in pairwise(second))


def entropy(scales: list[float]) -> float:
    """`KL(data || samples)` at the lowest level, of the first-order solver of the SDE in one dimension: densities on a
    fine grid, carried from step to step by its Gaussian kernels.
    """
    law, points = mixture(), 800

    def axis(r: float) -> Tensor:
        return torch.linspace(-1.6 - 6 * r, 1.6 + 6 * r, points, dtype=f64)

    y = axis(scales[0])
    p = torch.exp(-0.5 * (y / scales[0]) ** 2)
    p = p / p.sum()
    for r, s in pairwise(scales):
        keep = (s / r) ** 2
        mean = keep * y + (1 - keep) * law.posterior_mean(PATH, y[:, None], r)[:, 0]
        y = axis(s)
        kernel = torch.exp(-0.5 * ((y - mean[:, None]) / (s * math.sqrt(1 - keep))) ** 2)
        p = p @ (kernel / kernel.sum(1, keepdim=True).clamp(min=1e-300))
    step = y[1] - y[0]
    true = law.marginal(PATH, scales[-1]).log_prob(y[:, None])
    return float((true.exp() * (true - (p / step).clamp(min=1e-300).log())).sum() * step)


def scales_of(grid: Grid) -> list[float]:
    return [PATH.noise_scale(float(t)) for t in grid.levels(PATH).rows()[:-1]]


@pytest.mark.parametrize("n", [5, 10])
def test_samples_are_nearer_to_the_data_than_on_grids_by_hand(n: int) -> None:
    """In exact relative entropy; and the bound is one."""
    klub = measured()
    own = entropy([*klub.grid(n).scales, LOW])
    assert own < klub.bound(klub.best(n))
    grids: list[Grid] = [LogSNR(n + 1, LOW, HIGH), Rho(n + 1, 7.0, LOW, HIGH), Cosine(n + 1, LOW, HIGH)]
    assert own < 0.8 * min(entropy(scales_of(grid)) for grid in grids)


def test_another_number_of_steps_by_lines_between_logarithms() -> None:
    """The released grid of Stable Video Diffusion, which begins and ends alike at every number of steps."""
    released = [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034]
    assert log_linear(released, 10) == pytest.approx(released, rel=1e-12)
    twice = log_linear(released, 19)
    assert twice[::2] == pytest.approx(released, rel=1e-12)
    assert twice[1] == pytest.approx(math.sqrt(700.0 * 54.5), rel=1e-12)


def test_a_sweep_moves_each_place_between_its_neighbours() -> None:
    wanted = [0, 3, 7, 9]
    found, history = swept(lambda p: float(sum((a - b) ** 2 for a, b in zip(p, wanted, strict=True))), [0, 1, 2, 9])
    assert found == wanted
    assert history[0] == 29.0
    assert history[-1] == 0.0
