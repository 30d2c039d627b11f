"""A grid whose levels the entries follow at a pace of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kedge.paths.gaussian import GaussianPath
from kedge.paths.modes import EntryPace
from kedge.walk.grids.levels import Grid, Levels


@dataclass(frozen=True, eq=False)
class Paced:
    """The levels of another grid, each as one level for every entry: see `kedge.paths.EntryPace`."""

    grid: Grid
    pace: EntryPace

    def levels(self, path: GaussianPath) -> Levels:
        """`[N + 1, *entries]`."""
        inner = self.grid.levels(path)
        return Levels(self.pace.times(path, torch.as_tensor(inner.t, dtype=torch.float64)), inner.rise)
