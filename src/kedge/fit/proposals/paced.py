"""Levels of entries that follow one level at a pace of their own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kedge.fit.draw import Draw, Proposal
from kedge.noise import Noise
from kedge.paths.gaussian import GaussianPath
from kedge.paths.modes import EntryPace
from kedge.tree import Tree


@dataclass(frozen=True, eq=False)
class PacedLevels:
    """Another law's levels, each as one level for every entry: see `kedge.paths.EntryPace`."""

    proposal: Proposal
    pace: EntryPace

    def times(self, path: GaussianPath, u: Tensor) -> Tensor:
        """Those of the slowest entry."""
        return self.proposal.times(path, u)

    def draw(self, path: GaussianPath, x: Tree, noise: Noise, step: int) -> Draw:
        """`[B, *entries]` levels, and noise."""
        one = self.proposal.draw(path, x, noise, step)
        return Draw(self.pace.times(path, one.t), one.z, one.weight)
