"""Log-normal noise scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kedge.fit.draw import Draw, Spread, drawn
from kedge.noise import Noise
from kedge.paths.gaussian import GaussianPath
from kedge.tree import Tree


@dataclass(frozen=True)
class LogNormal:
    """`ln(noise scale) ~ N(mean, std^2)`, held within the path's ends.

    Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, table 1; on a trig
    path this is TrigFlow's proposal, `t = arctan(scale / sigma_data)`.
    """

    mean: float = -1.2
    std: float = 1.2
    spread: Spread = "stratified"

    def times(self, path: GaussianPath, u: Tensor) -> Tensor:
        """`time_at(exp(mean + std Phi^-1(u)))`."""
        return path.time_at((self.mean + self.std * torch.special.ndtri(u)).exp())

    def draw(self, path: GaussianPath, x: Tree, noise: Noise, step: int) -> Draw:
        """A level and noise for each sample of x."""
        return drawn(self.times, self.spread, path, x, noise, step)
