"""Logit-normal times."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kedge.fit.draw import Draw, Spread, drawn
from kedge.noise import Noise
from kedge.paths.gaussian import GaussianPath
from kedge.tree import Tree


@dataclass(frozen=True)
class LogitNormal:
    """`logit(t / t_max) ~ N(mean, std^2)`: the middle of a straight path, where its velocity is hardest to tell.

    Esser et al., "Scaling rectified flow transformers", ICML 2024, section 3.1.
    """

    mean: float = 0.0
    std: float = 1.0
    spread: Spread = "stratified"

    def times(self, path: GaussianPath, u: Tensor) -> Tensor:
        """`t_max sigmoid(mean + std Phi^-1(u))`."""
        return path.t_max * torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))

    def draw(self, path: GaussianPath, x: Tree, noise: Noise, step: int) -> Draw:
        """A level and noise for each sample of x."""
        return drawn(self.times, self.spread, path, x, noise, step)
