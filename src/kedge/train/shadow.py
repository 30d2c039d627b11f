"""Copies of a module that follow it: moving averages, target networks, frozen references, synchronised copies."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kedge.train.shards import is_shard, local, own_rows

STD_LIMIT = 1 / math.sqrt(12)
"""The relative width of a profile that weighs all steps alike (gamma = 0)."""


def gamma_of(std: float) -> float:
    """The exponent of the power-function profile tau^gamma whose standard deviation is `std` of the training time:
    std^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), a cubic (Karras et al., 2024, arXiv 2312.02696, section 3.1).
    """
    if not 0 < std < STD_LIMIT:
        raise ValueError(f"shadow: std is a share of the run between 0 and {STD_LIMIT:.3f}, got {std}")
    s = std**-2
    return float(np.roots([1, 7, 16 - s, 12 - s]).real.max())


class Shadow:
    """A copy that moves by `shadow <- d shadow + (1 - d) module`, `d` being `decay`, after every `every`-th update.

    `decay` 0 is a synchronised copy, 1 a frozen reference, what lies between a moving average or a target network.

    With `warmup`, the n-th move uses min(decay, (1 - 1/n)^(gamma + 1)): the power-function average of Karras et al.
    (2024, eq. 2), whose width is the share `std` of the steps made so far. Nothing of the initial weights is left after
    the first move, a run of a thousand steps averages over its last hundred or so, and a long one reaches the fixed
    decay. (The usual (1 + n) / (10 + n) tends to the same profile, with gamma = 8.)
    """

    def __init__(self, decay: float = 0.999, *, warmup: bool = True, every: int = 1, std: float = 0.10) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"shadow: decay lies between 0 (synchronised) and 1 (frozen), got {decay}")
        if every < 1:
            raise ValueError(f"shadow: every must be at least 1, got {every}")
        self.decay, self.warmup, self.every, self.std = decay, warmup, every, std
        self.gamma = gamma_of(std)
        self.calls = 0
        self._module: nn.Module | None = None
        self._followed: nn.Module | None = None
        self._pairs: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._sharded = False
        self._buffers: list[tuple[nn.Module, nn.Module, str]] = []

    @property
    def module(self) -> nn.Module:
        """The copy: in evaluation mode, without gradients."""
        if self._module is None:
            raise ValueError("this shadow follows no module yet: give it to a Part, or call follow(module)")
        return self._module

    @property
    def follows(self) -> nn.Module | None:
        """The module it was copied from."""
        return self._followed

    def follow(self, module: nn.Module) -> Shadow:
        """Starts as a copy of `module` as it is now."""
        self._followed = module
        self._module = copy.deepcopy(module).eval().requires_grad_(False)
        self.pair()
        return self

    def pair(self) -> None:
        """Finds again what follows what: for whoever puts other parameters into both modules, as sharding does."""
        if self._module is None or self._followed is None:
            return
        # Gathered once: walking a deep module costs more than moving its weights. Parameters keep their identity when a
        # module changes device; buffers do not, so those are looked up by owner and name.
        self._pairs = (list(self._module.parameters()), list(self._followed.parameters()))
        self._sharded = any(is_shard(p) for p in self._pairs[0])
        owners = zip(self._module.modules(), self._followed.modules(), strict=True)
        self._buffers = [(mine, theirs, name) for mine, theirs in owners for name in _buffer_names(theirs)]

    def decay_at(self, n: int) -> float:
        """`d` of the n-th move, n = 1, 2, ..."""
        if not self.warmup or self.decay in (0, 1):
            return self.decay
        return min(self.decay, (1 - 1 / n) ** (self.gamma + 1))

    @torch.no_grad()
    def update(self) -> None:
        """Hears that the followed module was updated, and moves when it is time. Buffers are copied."""
        self.calls += 1
        if self.decay == 1 or self.calls % self.every:
            return
        mine, theirs = self._pairs
        if self._sharded:  # each process moves its own rows
            mine, theirs = [local(p) for p in mine], [local(p) for p in theirs]
        if self.decay == 0:
            torch._foreach_copy_(mine, theirs)  # pyright: ignore[reportPrivateImportUsage]
        else:
            torch._foreach_lerp_(mine, theirs, 1 - self.decay_at(self.calls // self.every))  # pyright: ignore[reportPrivateImportUsage]
        for copied, owner, name in self._buffers:
            copied._buffers[name] = _copied(copied._buffers[name], owner._buffers[name])

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"calls": self.calls, "module": self.module.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        self.calls = state["calls"]
        self.module.load_state_dict(own_rows(state["module"], self.module.state_dict()))


def _buffer_names(module: nn.Module) -> list[str]:
    return list(module._buffers)


def _copied(mine: Tensor | None, theirs: Tensor | None) -> Tensor | None:
    """In place where shapes allow, so that whoever holds the buffer sees it; a buffer may also appear or grow."""
    if mine is None or theirs is None or mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return None if theirs is None else theirs.detach().clone()
    return mine.copy_(theirs)
