"""Uniform times."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kedge.fit.draw import Draw, Spread, drawn
from kedge.noise import Noise
from kedge.paths.gaussian import GaussianPath
from kedge.tree import Tree


@dataclass(frozen=True)
class Uniform:
    """Every time of the path alike, as DDPM and score SDEs draw it."""

    spread: Spread = "stratified"

    def times(self, path: GaussianPath, u: Tensor) -> Tensor:
        """`t_min + u (t_max - t_min)`."""
        return path.t_min + u * (path.t_max - path.t_min)

    def draw(self, path: GaussianPath, x: Tree, noise: Noise, step: int) -> Draw:
        """A level and noise for each sample of x."""
        return drawn(self.times, self.spread, path, x, noise, step)
