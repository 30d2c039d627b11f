"""States as trees: a tensor, or a dictionary of tensors. Every leaf leads with the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Tree = Tensor | dict[str, Tensor]
"""What is noised and denoised. Only paths, kernels and solvers look inside."""


def tree_map(f: Callable[..., Any], tree: Tree, *others: Any) -> Any:
    """Applies `f` leaf by leaf; all trees have the structure of the first."""
    if isinstance(tree, Tensor):
        return f(tree, *others)
    return {name: f(leaf, *(other[name] for other in others)) for name, leaf in tree.items()}


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, in the order of its fields."""
    return [tree] if isinstance(tree, Tensor) else list(tree.values())


def first_leaf(tree: Tree) -> Tensor:
    """Any leaf: it tells the batch, the device and the dtype of the whole."""
    return tree if isinstance(tree, Tensor) else next(iter(tree.values()))


def all_finite(tree: Tree) -> bool:
    """Whether it holds neither infinities nor what is no number."""
    return all(bool(leaf.detach().isfinite().all()) for leaf in leaves(tree))


def take(tree: Tree, index: Tensor) -> Tree:
    """The samples at `index`: the one way in which a batch is permuted, pruned or branched."""
    return tree_map(lambda leaf: leaf.index_select(0, index), tree)


def blocks(count: int, width: int, device: torch.device | str | None = None) -> Iterator[tuple[Tensor, int]]:
    """The samples 0 .. count - 1 in blocks of exactly `width`: their indices, and how many of them are meant. The last
    block is filled up with its last sample.

    A processor's kernels are chosen by the shapes that they are given, and another kernel rounds otherwise. Of equal
    shapes every sample comes out the same to the last bit, whatever stands beside it.
    """
    for first in range(0, count, width):
        yield torch.arange(first, first + width, device=device).clamp(max=count - 1), min(width, count - first)


def in_blocks(call: Callable[..., Tensor], width: int | None, *inputs: Tensor) -> Tensor:
    """`call(*inputs)`, whose samples lead; in blocks of `width`, where one is given."""
    if width is None or not len(inputs[0]):
        return call(*inputs)
    found = blocks(len(inputs[0]), width, inputs[0].device)
    return torch.cat([call(*(values[some.to(values.device)] for values in inputs))[:meant] for some, meant in found])


def lead(value: Tensor, like: Tensor) -> Tensor:
    """Aligns `value` with `like` from the batch axis on, by trailing axes of size 1, in `like`'s dtype and device.

    A level of shape `[B]` or `[B, T]` then multiplies a state of shape `[B, T, D]`. A number on the host stays there
    where the state lies elsewhere: it goes with any device, and to copy it would make the host wait.
    """
    if value.ndim == 0 and value.device.type == "cpu" and like.device.type != "cpu":
        return value.to(like.dtype)
    if value.ndim < like.ndim:
        value = value.reshape(value.shape + (1,) * (like.ndim - value.ndim))
    return value.to(device=like.device, dtype=like.dtype)


def sum_event(values: Tree, average: bool = False) -> Tensor:
    """Sums per-entry values to one number a sample `[B]`. `average=True` divides by the number of entries, as some
    released code does: what comes out is then no log-density, and its exponential no density ratio.
    """
    parts = [leaf.flatten(1).sum(1) if leaf.ndim > 1 else leaf for leaf in leaves(values)]
    total = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
    entries = sum(leaf[0].numel() for leaf in leaves(values)) if average else 1
    return total / entries
