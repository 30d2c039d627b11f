"""Planning without a model: what the logs did, when they were where we are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from kedge.data import Normaliser, Segments
from kedge.plan.proposer import Frames


@dataclass(frozen=True, eq=False)
class NearestSegments:
    """Proposes the logged windows that began nearest to where we are, each with its first state replaced by ours.

    The candidates of one situation are its n nearest neighbours among `window_starts`, by the distance of normalised
    states: the critic, the filter and the follower of a planner then do with them what they do with its plans.
    """

    segments: Segments
    normaliser: Normaliser
    starts: Int64[np.ndarray, " windows"]
    firsts: Float[Tensor, "windows s"]

    @classmethod
    def of(cls, segments: Segments, normaliser: Normaliser, windows: int = 100_000) -> NearestSegments:
        """From windows (without a normaliser of their own) that begin at so many evenly spaced steps of the data."""
        count = len(segments.logs)
        starts = np.unique(np.linspace(0, count - 1, min(windows, count)).astype(np.int64))
        firsts = torch.from_numpy(np.array(segments.logs.observations[starts]))
        return cls(segments, normaliser, starts, normaliser(firsts.to(normaliser.shift)))

    @property
    def horizon(self) -> int:
        """See `Proposer`."""
        return self.segments.horizon

    @property
    def stride(self) -> int:
        """See `Proposer`."""
        return self.segments.stride

    def propose(
        self,
        states: Float[Tensor, "b s"],
        seeds: Int64[Tensor, "b n"],
        goal: Float[Tensor, "b g"] | None = None,
        kept: Float[Tensor, "b h s"] | None = None,
        frames: Frames | None = None,
    ) -> Float[Tensor, "b n h s"]:
        """The same for all seeds: there is nothing random in it. A goal is not heard; the critic decides. Of fewer
        windows than candidates, the nearest come again.
        """
        n, there = seeds.shape[1], len(self.starts)
        here = self.normaliser(states.to(self.firsts))
        some = [torch.cdist(few, self.firsts).topk(min(n, there), largest=False).indices for few in here.split(64)]
        found = torch.cat(some).cpu()[:, torch.arange(n) % there].flatten().numpy()
        windows = self.segments.at(self.starts[found])["states"].unflatten(0, (len(states), n)).clone()
        windows[:, :, 0] = states[:, None]
        return windows
