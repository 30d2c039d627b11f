"""The batches that planning recipes learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from kedge.data import Pairs, Segments
from kedge.train import Tick


@runtime_checkable
class Companion(Protocol):
    """What comes along with windows: of `kedge.data`, `FarApart`, `Prompts`, `Worths`."""

    def along(self, tick: Tick, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """More for each window of the batch."""
        ...

    def state(self) -> dict[str, Any]:
        """What it belongs to."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Makes sure that it is the same."""
        ...


class Plans:
    """Windows of the logs; a share of them end where hindsight says, and say so in "told": to these the planner is
    shown the end. With `pairs`, what inverse dynamics learns from comes along: as many for each window, beside each
    other, where there are more pairs than windows. So does what the companions have of the windows.

    What critics learn from are windows that end where the data left the goal, so the share of those that end elsewhere
    is drawn anew beside them: "states" and "actions" are the planner's, "whole" and "whole actions" the critics'.
    """

    def __init__(
        self,
        windows: Segments,
        told: Segments | None,
        share: float,
        pairs: Pairs | None,
        companions: Sequence[Companion] = (),
    ) -> None:
        self.windows, self.told, self.share, self.pairs = windows, told, share, pairs
        self.companions = list(companions)

    def next(self, tick: Tick) -> dict[str, Tensor]:
        """See `kedge.train.Source`."""
        batch = self.windows.next(tick)
        for companion in self.companions:
            batch |= companion.along(tick, batch)
        count = len(batch["states"])
        batch["whole"] = batch["states"]
        if "actions" in batch:
            batch["whole actions"] = batch["actions"]
        batch["told"] = torch.zeros(count, dtype=torch.bool, device=batch["states"].device)
        if self.told is not None:
            some = round(self.share * count)
            batch["told"][:some] = True
            for name, values in self.told.next(tick).items():
                if name in ("states", "actions", "valid"):
                    batch[name] = torch.cat([values[:some], batch[name][some:]])
        if self.pairs is not None:
            batch |= {name: grouped(values, count) for name, values in self.pairs.next(tick).items()}
        return batch

    def sample(self, count: int) -> Tensor:
        """The states of so many windows, mixed as those of a batch."""
        wide = copy(self)
        wide.windows, wide.told, wide.pairs, wide.companions = copy(self.windows), copy(self.told), None, []
        for windows in (wide.windows, wide.told):
            if windows is not None:
                windows.batch_size = count
        return wide.next(Tick(0, 0))["states"]

    def state(self) -> dict[str, Any]:
        """What the batches belong to."""
        return {"share": self.share} | {name: source.state() for name, source in self._sources().items()}

    def load(self, state: dict[str, Any]) -> None:
        """Makes sure that it is the same."""
        for name, source in self._sources().items():
            source.load(state[name])

    def _sources(self) -> dict[str, Any]:
        named: dict[str, Any] = {"windows": self.windows, "told": self.told, "pairs": self.pairs}
        named |= {type(companion).__name__: companion for companion in self.companions}
        return {name: source for name, source in named.items() if source is not None}


class Beside:
    """A companion: other windows of the same logs, whose states come along under a name."""

    def __init__(self, name: str, windows: Segments) -> None:
        self.name, self.windows = name, windows

    def along(self, tick: Tick, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of a tick, whatever else is in the batch."""
        return {self.name: self.windows.next(tick)["states"]}

    def state(self) -> dict[str, Any]:
        """What it belongs to."""
        return self.windows.state()

    def load(self, state: dict[str, Any]) -> None:
        """Makes sure that it is the same."""
        self.windows.load(state)


def grouped(values: Tensor, count: int) -> Tensor:
    """`[B, ...]` for B groups of rows, `[B, k, ...]` where a group has several."""
    return values if len(values) == count else values.unflatten(0, (count, -1))
