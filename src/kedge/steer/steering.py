"""An objective and a way to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kedge.noise import Noise, Seeds
from kedge.steer.objectives import Objective
from kedge.steer.ways import OWN, Scale, StochasticSampling, Way
from kedge.walk import Walk


@dataclass(frozen=True)
class Steering:
    """What samples of a frozen denoiser are to come to, and how.

    objective: xi
    way:       of the six
    """

    objective: Objective
    way: Way = field(default_factory=StochasticSampling)

    def run(
        self, walk: Walk, start: Tensor, cond: Any = None, *, seeds: Seeds = None, scale: Scale = OWN, known: Any = None
    ) -> Tensor:
        """Samples, as `Walk.run` makes them of `start`.

        Args:
            walk: of the frozen denoiser.
            start: noise, at the first level of the walk.
            cond: what the network is conditioned on.
            seeds: as the walk takes them.
            scale: from the data's own units, in which xi is said, to the denoiser's.
            known: a sample in the data's own units of which the pinned entries are right; by default the data's zero.
        """
        moved = self.way.walk(walk, self.objective, scale)
        noise = Noise.of(seeds, len(start), start.device)
        told = scale.undo(torch.zeros_like(start)) if known is None else known
        begun = self.way.begin(moved, start, told, self.objective, scale, noise)
        x = moved.run(begun, cond, seeds=noise).x
        assert isinstance(x, Tensor)
        return x

    def xi(self, x: Any, cond: Any = None) -> Float[Tensor, " b"]:
        """Of clean samples in the data's own units."""
        with torch.no_grad():
            return self.objective(x, 0.0, cond)

    def loss(self, xi: Float[Tensor, "b n"], worth: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """What is the least for the sample that is chosen among n, each worth something to others as well."""
        if self.way.weigh == torch.inf:
            return xi
        return self.way.weigh * xi - worth
