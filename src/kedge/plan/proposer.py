"""Where candidate trajectories come from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from kedge.noise import MIX_1, mix

Frames = list[tuple[float, Tensor]]


@runtime_checkable
class Proposer(Protocol):
    """Proposes trajectories of `horizon` points, `stride` steps apart. All is in the data's own units.

    A planner that denoises is one; the nearest logged segments and a shortest path on a map are others, so that each
    is judged by the same critic, filtered by the same filter and followed by the same follower.
    """

    @property
    def horizon(self) -> int:
        """Points of a trajectory, the first one included."""
        ...

    @property
    def stride(self) -> int:
        """Steps from one point to the next."""
        ...

    def propose(
        self,
        states: Float[Tensor, "b s"],
        seeds: Int64[Tensor, "b n"],
        goal: Float[Tensor, "b g"] | None = None,
        kept: Float[Tensor, "b h s"] | None = None,
        frames: Frames | None = None,
    ) -> Float[Tensor, "b n h s"]:
        """n candidates from each state, one for each seed; to `goal`, the first dimensions of a state, if there is one.

        `kept` is what is left of the plans that are being followed: some candidates may be looked for near them. A
        proposer that has intermediate results to show appends (noise scale, estimate) to `frames`.
        """
        ...


def candidate_seeds(episodes: Int[np.ndarray, " b"], plans: int, count: int) -> Int64[Tensor, "b n"]:
    """A seed for each candidate, of the episode's seed, how often it has planned, and the candidate's index."""
    of_plan = mix(torch.as_tensor(episodes, dtype=torch.int64) * MIX_1 + plans)
    return mix(of_plan[:, None] + torch.arange(count))
