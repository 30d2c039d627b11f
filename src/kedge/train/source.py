"""Where batches come from."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from kedge.noise import Noise
from kedge.train.part import Batch, Tick
from kedge.tree import Tree, first_leaf, take, tree_map


@runtime_checkable
class Source(Protocol):
    """A stream of batches that can be taken up again: data sets, rollouts, replay, a model's own samples."""

    def next(self, tick: Tick) -> Batch:
        """The next batch. What is random in it is a function of the tick and of the state."""
        ...

    def state(self) -> dict[str, Any]:
        """What is needed to go on from here: numbers, text, tensors, dictionaries and lists of those."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        ...


def named_leaves(batch: Batch) -> list[tuple[str, Tensor]]:
    """The tensors of a batch that is a tree, with their names; nothing of any other batch."""
    if isinstance(batch, Tensor):
        return [("batch", batch)]
    if isinstance(batch, dict):
        return [(str(name), leaf) for name, leaf in batch.items() if isinstance(leaf, Tensor)]
    return []


def nonfinite(batch: Batch) -> str | None:
    """Names the first tensor with an infinity or nan in it, and how many."""
    for name, leaf in named_leaves(batch):
        if leaf.is_floating_point() and not bool(leaf.isfinite().all()):
            return f"{name!r} holds {int((~leaf.isfinite()).sum())} non-finite of {leaf.numel()} numbers"
    return None


def samples(batch: Batch, where: str) -> int | None:
    """The number of samples in a batch, on which its tensors must agree; None for a batch that is no tree."""
    sizes = {leaf.shape[0] if leaf.ndim else 0 for _, leaf in named_leaves(batch)}
    if len(sizes) > 1:
        found = ", ".join(f"{name!r} {tuple(leaf.shape)}" for name, leaf in named_leaves(batch))
        raise ValueError(f"{where}: all tensors must lead with the same number of samples, got {found}")
    return sizes.pop() if sizes else None


class Batches:
    """Shuffled batches of a tree of tensors in memory, dropping what does not fill the last batch of an epoch.

    The order of an epoch is a function of the seed and the epoch, so what is saved is a position.
    """

    def __init__(self, data: Tree, batch_size: int, seed: int = 0, device: torch.device | str | None = None) -> None:
        if isinstance(data, dict) and (nested := [k for k, v in data.items() if not isinstance(v, Tensor)]):
            raise TypeError(f"Batches: {nested[0]!r} is no tensor; data is a tensor for each name, none within another")
        count = samples(data, "Batches") or 0
        if not 1 <= batch_size <= count:
            raise ValueError(f"Batches: the batch size must lie between 1 and the {count} samples, got {batch_size}")
        if bad := nonfinite(data):
            raise ValueError(f"Batches: {bad}")
        self.data: Tree = data if device is None else tree_map(lambda leaf: leaf.to(device), data)
        self.count, self.batch_size, self.seed, self.position = count, batch_size, seed, 0
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return self.count // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """The permutation of an epoch: the ranks of keyed random numbers."""
        device = first_leaf(self.data).device
        numbers = Noise.of(self.seed, 1, device).uniform((1, self.count), step=epoch)
        return numbers[0].argsort(stable=True)

    def next(self, tick: Tick) -> Batch:
        """The next batch."""
        epoch, place = divmod(self.position, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.order(epoch)
        self.position += 1
        return take(self.data, self._order[place * self.batch_size : (place + 1) * self.batch_size])

    def state(self) -> dict[str, Any]:
        """The position, and what it is a position in."""
        return {"position": self.position, "samples": self.count, "batch_size": self.batch_size, "seed": self.seed}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a position; refuses one in other data or another order."""
        here = self.state() | {"position": state.get("position")}
        if state != here:
            odd = ", ".join(f"{k}: {state.get(k)} there, {v} here" for k, v in here.items() if state.get(k) != v)
            raise ValueError(f"Batches: the saved position belongs to other batches ({odd})")
        self.position = state["position"]
