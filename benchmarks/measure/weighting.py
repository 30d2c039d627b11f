"""How closely the polynomial weighting follows the exact `log L` of a mixture, batch by batch."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import kedge
from kedge.exact import GaussianMixture
from kedge.fit.proposals import LogNormal
from kedge.fit.weightings import Polynomial

PROPOSAL = LogNormal(-0.8, 1.6)
PATH = kedge.paths.Trig(sigma_data=0.5)
STDS = (0.3, 0.05)
BATCHES = (32, 128, 512)
STEPS, SETTLED, SEEDS = 1000, 200, (0, 1, 2)
DEGREE = 5


@dataclass(frozen=True)
class Target:
    """The exact `log L` of a mixture with modes at +-.5 over two standard deviations of the log scale, and the best
    polynomial fit to it in the mean square over the law of the levels.
    """

    mixture: GaussianMixture
    log_snr: Tensor
    weight: Tensor
    exact: Tensor
    best: Tensor

    @classmethod
    def of(cls, std: float) -> Target:
        """For components of this standard deviation."""
        mixture = GaussianMixture([0.5, 0.5], torch.tensor([[-0.5], [0.5]]), [std**2, std**2])
        position = torch.linspace(-2, 2, 201, dtype=torch.float64)
        t = PATH.time_at((PROPOSAL.mean + PROPOSAL.std * position).exp())
        weight = (-0.5 * position**2).exp()
        weight = weight / weight.sum()
        exact = torch.tensor([math.log(mixture.loss(PATH, float(level))) for level in t], dtype=torch.float64)
        columns = torch.stack([(position / 2) ** n for n in range(DEGREE + 1)], 1)
        root = weight.sqrt()[:, None]
        best = columns @ torch.linalg.lstsq(columns * root, exact[:, None] * root).solution[:, 0]
        return cls(mixture, PATH.log_snr(t), weight, exact, best)

    def distance(self, a: Tensor, b: Tensor) -> float:
        """Root mean square over the law of the levels."""
        return float((self.weight * (a - b) ** 2).sum().sqrt())


def weightings() -> list[dict[str, Any]]:
    """For each mixture, regression, smoothing and batch size: the root-mean-square distance of P to the best fit of its
    degree, averaged over the steps after the first ones and over seeds, and the fit's own distance to the truth.
    """
    rows: list[dict[str, Any]] = []
    for std in STDS:
        target = Target.of(std)
        floor = target.distance(target.best, target.exact)
        for regress in ("gamma", "log"):
            for smooth in ("statistics", "coefficients"):
                for batch in BATCHES:
                    found = [_followed(target, regress, smooth, batch, seed) for seed in SEEDS]
                    rows.append({
                        "std": std, "regress": regress, "smooth": smooth, "batch": batch, "seeds": list(SEEDS),
                        "distance": statistics.mean(found), "distances": found, "best_fit_error": floor,
                    })  # fmt: skip
    return rows


def _followed(target: Target, regress: Any, smooth: Any, batch: int, seed: int) -> float:
    polynomial = Polynomial(DEGREE, regress=regress, smooth=smooth, center=PROPOSAL.mean, scale=PROPOSAL.std)
    denoiser = target.mixture.denoiser(PATH)
    x = target.mixture.sample(STEPS * batch, seeds=seed)
    draw = PROPOSAL.draw(PATH, x, kedge.Noise.of(seed + 100, STEPS * batch), step=0)
    error = (denoiser(PATH.perturb(x, draw.t, draw.z), draw.t) - x) ** 2
    log_snr, distances = PATH.log_snr(draw.t), list[float]()
    for step, rows in enumerate(torch.arange(STEPS * batch).split(batch)):
        polynomial.update(log_snr[rows], error[rows, 0])
        if step >= SETTLED:
            distances.append(target.distance(polynomial.log_error(target.log_snr), target.best))
    return statistics.mean(distances)
