"""A mixture is learned in seconds and sampled: its energy distance to the exact law is within sampling error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kedge import Denoiser, Noise, grids, sample, solvers
from kedge.exact import GaussianMixture
from kedge.fit import DenoisingLoss
from kedge.fit.proposals import LogNormal, Uniform
from kedge.fit.weightings import EDM, Polynomial
from kedge.fit.weightings import Uniform as Plain
from kedge.nets import MLP
from kedge.paths import GaussianPath, Trig, VarianceExploding, VariancePreserving
from kedge.train import AdamW, Batches, Part, Trainer

MIXTURE = GaussianMixture([0.4, 0.35, 0.25], torch.tensor([[-0.6, -0.3], [0.6, -0.2], [0.1, 0.7]]), [0.03, 0.05, 0.02])
SAMPLES, PAIRS, STEPS, BATCH = 2000, 5, 1000, 256
CASES: dict[str, tuple[GaussianPath, Any, float | None, Any, Callable[[], Any]]] = {
    "trig": (Trig(0.5), "trig", None, LogNormal(-0.8, 1.6), Polynomial),
    "eps": (VariancePreserving(), "eps", None, Uniform(), lambda: Plain("eps")),
    "edm": (VarianceExploding(), "edm", 0.5, LogNormal(-0.8, 1.6), lambda: EDM(0.5)),
}


def energy_distance(x: Tensor, y: Tensor) -> float:
    """`2 E|x - y| - E|x - x'| - E|y - y'|`, each mean over all pairs of the samples."""
    mean = lambda a, b: float(torch.cdist(a, b).mean())  # noqa: E731
    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def fitted(case: str) -> Any:
    """The moving average of a small network's weights after a run of the trainer."""
    path, predict, sigma_data, proposal, weighting = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MLP(2, width=64, depth=2, embed=32)
    loss = DenoisingLoss(Denoiser(net, path, predict, sigma_data=sigma_data), proposal, weighting())
    data = Batches(MIXTURE.sample(50_000, seeds=1, dtype=torch.float32), BATCH)
    trainer = Trainer([Part(loss, loss, AdamW(4e-3, warmup=50, decay="cosine"))], data, STEPS, progress=False)
    trainer.train()
    average = trainer.shadow().module
    assert isinstance(average, DenoisingLoss)
    return average.denoiser


@pytest.mark.parametrize("case", CASES)
def test_a_fitted_mixture_is_as_far_from_exact_samples_as_they_are_from_each_other(
    case: str, record_property: Callable[[str, object], None]
) -> None:
    """The mean over 5 pairs of 2,000 samples is at most twice that of two exact samples of 2,000, which by the formula
    is `2 E|x - x'| / 2000` (and is so, as measured here).
    """
    denoiser = fitted(case)
    exact = MIXTURE.sample(2 * PAIRS * SAMPLES, seeds=100).reshape(2, PAIRS, SAMPLES, 2)
    chance = 2 / SAMPLES * float(torch.cdist(exact[0, 0], exact[1, 1]).mean())
    measured = sum(energy_distance(a, b) for a, b in zip(exact[0], exact[1], strict=True)) / PAIRS
    assert 0.5 * chance < measured < 2 * chance
    grid = grids.LogSNR(20, 0.02, 20.0)
    top = denoiser.path.sigma(float(grid.levels(denoiser.path).t[0]))
    z = top * Noise.of(9, PAIRS * SAMPLES).normal((PAIRS * SAMPLES, 2), 0, dtype=torch.float32)
    drawn = sample(denoiser, z, grid=grid, solver=solvers.DPMSolverPP(2)).double().reshape(PAIRS, SAMPLES, 2)
    distance = sum(energy_distance(a, b) for a, b in zip(drawn, exact[0], strict=True)) / PAIRS
    record_property("distance over chance", distance / chance)
    assert distance < 2 * chance
