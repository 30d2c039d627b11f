"""Annealing at a constant rate of divergence: its schedule where the exact one is known, and what it buys."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from align.gaussian_path import GaussianPath
from kedge.align.anneal import HMC, ConstantRate, Linear, Pace, annealed
from kedge.exact import GaussianMixture

pytestmark = pytest.mark.system

f64 = torch.float64
STEPS = 20
PATH = GaussianPath((1.5, -1.0), (0.25, 0.1))


def test_its_schedule_is_the_exact_one_and_the_divergence_falls_in_a_line() -> None:
    """Every b within 5 % of the solution of `db / dk = KL_0 / (T (1 - b) Var_b)`, and the exact divergence at the b's
    that were walked within R^2 > .99 of a line.
    """
    x = PATH.first.sample(10_000, seeds=0)
    made = annealed(x, PATH.first.log_prob, PATH.last.log_prob, ConstantRate(STEPS), HMC(leaps=5), seeds=1)
    b, exact = made.schedule[:-1, 0].numpy(), PATH.constant_rate(STEPS)
    assert np.abs(b[1:] / exact[1:] - 1).max() < 0.05
    divergence = np.array([PATH.divergence(float(v)) for v in made.schedule[:, 0]])
    line = PATH.divergence(0.0) * (1 - np.arange(STEPS + 1) / STEPS)
    assert 1 - ((divergence - line) ** 2).sum() / ((divergence - divergence.mean()) ** 2).sum() > 0.99
    equal = np.array([PATH.divergence(v) for v in np.linspace(0, 1, STEPS + 1)])
    assert 1 - ((equal - line) ** 2).sum() / ((equal - equal.mean()) ** 2).sum() < 0, "equal steps are far from it"


def spread(schedule: Pace) -> tuple[float, float]:
    """The variance of log Z and its mean squared error over 100 runs, Z being 1."""
    centres = torch.tensor([[3.0, 3.0], [-3.0, 3.0], [3.0, -3.0], [-3.0, -3.0]], dtype=f64)
    sharp = GaussianMixture([0.1, 0.2, 0.3, 0.4], centres, [0.01] * 4)
    wide = GaussianMixture([1.0], torch.zeros(1, 2, dtype=f64), [9.0])
    x = wide.sample(100 * 64, seeds=0)
    log_z = annealed(x, wide.log_prob, sharp.log_prob, schedule, HMC(leaps=1), groups=100, seeds=1).log_z
    return float(log_z.var()), float((log_z**2).mean())


def test_log_z_of_a_sharp_target_varies_less_than_by_equal_steps() -> None:
    """By a quarter at least. Of 100 runs each, the logarithm of the ratio of variances has a standard error of
    `sqrt(4 / 99) = .2` for normal log Z.
    """
    (ours, mine), (equal, theirs) = spread(ConstantRate(STEPS)), spread(Linear(STEPS))
    assert np.log(ours / equal) < np.log(0.75) - 2 * (4 / 99) ** 0.5
    assert mine < 0.75 * theirs
