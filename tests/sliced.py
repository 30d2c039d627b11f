"""How far two sets of samples are apart."""

from __future__ import annotations

import torch
from torch import Tensor


def sliced(x: Tensor, y: Tensor, directions: int = 64) -> float:
    """The Wasserstein distance of second order in the mean over directions, of as many samples on either side."""
    d = torch.randn(directions, x.shape[1], dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    d = d / d.norm(dim=1, keepdim=True)
    return float(((x @ d.T).sort(0).values - (y.to(x) @ d.T).sort(0).values).square().mean().sqrt())
