"""Brings states to a common scale and back. A module without parameters, so that its numbers are kept with a run's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from kedge.data.moments import Moments, moments
from kedge.data.trajectories import Trajectories
from kedge.errors import InputError

Scale = Literal["gaussian", "limits"]


class Normaliser(nn.Module):
    """`(x - shift) / scale` over the last axis, and back.

    `shift` and `scale` are buffers: they travel with the module that holds this one, into its checkpoints and its
    weights. `fit` makes one from data; to load saved numbers, begin with `Normaliser(torch.zeros(d), torch.ones(d))`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Float[Tensor, " d"], scale: Float[Tensor, " d"]) -> None:
        super().__init__()
        if not bool((scale > 0).all() and scale.isfinite().all() and shift.isfinite().all()):
            raise ValueError("Normaliser: every scale must be positive, and all numbers finite")
        self.register_buffer("shift", shift.detach().clone())
        self.register_buffer("scale", scale.detach().clone())

    @classmethod
    def fit(
        cls,
        data: Trajectories | np.ndarray | Tensor,
        kind: str = "gaussian",
        shared: Sequence[Sequence[int]] = (),
    ) -> Normaliser:
        """From data, in one pass and in float64; what is mapped from disk is never read as a whole.

        `"gaussian"` gives mean 0 and standard deviation 1; `"limits"` puts the smallest at -1 and the largest at 1.
        A dimension that does not vary is shifted to 0 and left at its own scale, so that nothing is divided by zero.

        Args:
            data: trajectories, whose observations are meant, or an array `[N, D]`.
            kind: `"gaussian"` or `"limits"`.
            shared: groups of dimensions with one scale, such as `((0, 1), (2, 3))` for the positions and velocities in
                a maze, which is then not sheared: the root mean square of their deviations, or their largest range.
        """
        if kind not in get_args(Scale):
            raise InputError(f'Normaliser: unknown kind {kind!r}, choose "gaussian" or "limits"')
        values = data.observations if isinstance(data, Trajectories) else _rows(data)
        found = moments(values)
        if found.nonfinite:
            raise InputError(f"Normaliser: {found.nonfinite} numbers of the data are infinite or nan")
        _check_groups(shared, len(found.mean))
        shift = found.mean if kind == "gaussian" else (found.low + found.high) / 2
        scale = _scales(found, kind, shared)
        return cls(torch.from_numpy(shift).float(), torch.from_numpy(scale).float())

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """To the common scale."""
        return (x - self.shift) / self.scale

    def undo(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Back to the data's."""
        return x * self.scale + self.shift

    def extra_repr(self) -> str:
        """How many dimensions."""
        return f"{len(self.shift)} dimensions"


def _scales(found: Moments, kind: str, shared: Sequence[Sequence[int]]) -> np.ndarray:
    scale = found.std if kind == "gaussian" else (found.high - found.low) / 2
    scale = np.where(found.constant, 0.0, scale)
    for group in shared:
        at = list(group)
        # A constant member takes the scale of those that vary.
        varying = scale[at][~found.constant[at]]
        if len(varying):
            scale[at] = np.sqrt((varying**2).mean()) if kind == "gaussian" else varying.max()
    return np.where(scale > 0, scale, 1.0)


def _check_groups(shared: Sequence[Sequence[int]], dimensions: int) -> None:
    named = [d for group in shared for d in group]
    if odd := [d for d in named if not 0 <= d < dimensions]:
        raise InputError(f"Normaliser: shared names dimension {odd[0]}, but there are 0 to {dimensions - 1}")
    if twice := [d for d in named if named.count(d) > 1]:
        raise InputError(f"Normaliser: shared names dimension {twice[0]} twice")


def _rows(data: Any) -> np.ndarray:
    values = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asanyarray(data)
    if values.ndim != 2 or not len(values):
        raise InputError(f"Normaliser: the data must be [N, D] with at least a row, got {list(values.shape)}")
    return values
