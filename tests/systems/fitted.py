"""What the tests of fitted grids share: laws whose denoisers are known, and distances between samples."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from kedge.distill import Subject, teacher_ends
from kedge.exact import GaussianMixture
from kedge.paths import VarianceExploding

f64 = torch.float64
PATH = VarianceExploding()
LOW, HIGH = 0.02, 20.0


@cache
def ring() -> GaussianMixture:
    """Six modes in the plane, of three weights."""
    angle = torch.arange(6, dtype=f64) * math.pi / 3
    return GaussianMixture([0.3, 0.1, 0.2, 0.1, 0.2, 0.1], torch.stack([angle.cos(), angle.sin()], 1), [0.01] * 6)


@cache
def subject(count: int, seed: int = 1) -> Subject:
    """Of the ring."""
    return Subject(ring().denoiser(PATH), ring().sample(count, seeds=seed), LOW, HIGH, seed=seed)


@cache
def ends(count: int, seed: int = 1) -> Tensor:
    """Where its flow leads."""
    return teacher_ends(subject(count, seed), 40)


def sliced(x: Tensor, y: Tensor) -> float:
    """The Wasserstein distance of second order in the plane, averaged over directions."""
    angle = torch.arange(32, dtype=f64) * math.pi / 32
    along = torch.stack([angle.cos(), angle.sin()])
    return float(((x @ along).sort(0).values - (y @ along).sort(0).values).square().mean().sqrt())
