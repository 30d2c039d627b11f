"""Known entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kedge.capture import unseen
from kedge.denoise import Pinning
from kedge.elementary import Level
from kedge.slots import PIN_SLOT
from kedge.tree import Tree, all_finite, tree_map
from kedge.walk.state import Hook, Place, State, Step

MASK, VALUES = "pin.mask", "pin.values"


@dataclass(frozen=True, eq=False)
class Pin(Hook):
    """Holds the entries under `mask` to `values`: exactly so in a sample that is walked to clean.

    Args:
        mask: True where an entry is known; broadcasts to the state.
        values: the known entries (the rest is ignored); broadcasts to the state.
        way: what the network sees of them on the way: `"clean"` throughout, as planners are trained, or `"noised"` to
            the level of the rest, as inpainting with an unmasked model does. By default as the denoiser was trained;
            the other way is an error.
    """

    mask: Tree
    values: Tree
    way: Pinning | None = None
    place: Place = "pin"

    def begin(self, state: State) -> State:
        """Checks the way, and gives each sample its own mask and values."""
        if {isinstance(tree, dict) for tree in (self.mask, self.values)} != {isinstance(state.x, dict)}:
            raise ValueError("Pin: mask and values must be tensors for a tensor state, dictionaries for a dictionary")
        trained = state.walk.estimator.pinned
        if self.way is not None and self.way != trained:
            raise ValueError(
                f"Pin(way={self.way!r}) on a denoiser trained with pinned entries {trained}: way={trained!r}"
            )
        if MASK in state.notes:
            raise ValueError("two Pin hooks in one walk: join their masks")
        try:
            state.notes[MASK] = tree_map(
                lambda x, m: m.to(device=x.device, dtype=torch.bool).expand_as(x), state.x, self.mask
            )
            state.notes[VALUES] = tree_map(lambda x, v: v.to(x).expand_as(x), state.x, self.values)
        except (RuntimeError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"Pin: mask and values must broadcast to the state: {error}") from None
        if not unseen():
            known = tree_map(lambda m, v: v[m], state.notes[MASK], state.notes[VALUES])
            if not all_finite(known):
                raise ValueError("Pin: values under the mask are not finite")
        return self._pinned(state)

    def after(self, state: State, step: Step) -> State:
        """Puts them back after each step."""
        return self._pinned(state)

    def inside(self, state: State, x: Tree, t: Level) -> Tree:
        """Puts them back at level t; within one step their noise is the same at all levels, as it is along the flow."""
        mask, values = state.notes[MASK], state.notes[VALUES]
        if state.walk.estimator.pinned == "noised" and not _is_clean(t):
            path = state.walk.path
            values = path.perturb(values, t, path.noise(values, state.noise, state.step, PIN_SLOT))
        return tree_map(torch.where, mask, values, x)

    def _pinned(self, state: State) -> State:
        state.x = self.inside(state, state.x, state.t)
        return state


def _is_clean(t: Level) -> Any:
    return not isinstance(t, torch.Tensor) and t == 0
