"""Means over the steps since the last row, without waiting for the device at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Meter:
    """Collects figures as they are, and reads them once a row.

    Its state is the figures themselves: a resumed run writes the same mean, to the last bit.
    """

    def __init__(self) -> None:
        self._before: dict[str, Tensor] = {}
        self._since: dict[str, list[Tensor | float | int]] = {}

    def __bool__(self) -> bool:
        return bool(self._before or self._since)

    def add(self, name: str, figure: Tensor | float | int) -> None:
        """One more figure; of a tensor with axes, its mean."""
        if isinstance(figure, Tensor):
            figure = figure.detach()
            figure = figure.double().mean() if figure.ndim else figure
        self._since.setdefault(name, []).append(figure)

    def read(self) -> dict[str, float]:
        """The mean of each name since the last reading; starts anew."""
        means = {name: float(figures.mean()) for name, figures in self.state().items()}
        self._before, self._since = {}, {}
        return means

    def state(self) -> dict[str, Tensor]:
        """All figures, in double precision on the CPU."""
        names = list(dict.fromkeys([*self._before, *self._since]))
        return {name: self._collected(name) for name in names}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` gave."""
        self._before, self._since = dict(state), {}

    def _collected(self, name: str) -> Tensor:
        past = self._before.get(name, torch.empty(0, dtype=torch.float64))
        figures = self._since.get(name, [])
        if figures and all(isinstance(figure, Tensor) for figure in figures):
            recent = torch.stack([figure for figure in figures if isinstance(figure, Tensor)]).double().cpu()
        else:
            recent = torch.tensor([float(figure) for figure in figures], dtype=torch.float64)
        return torch.cat([past, recent])
