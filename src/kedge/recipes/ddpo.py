"""DDPO on a planner: the reward goes up, however far that leads."""

from __future__ import annotations

from dataclasses import dataclass

from kedge.align import PolicyGradient
from kedge.recipes.align import Align
from kedge.walk import Walk


@dataclass(frozen=True)
class DDPO(Align):
    """Raises the reward of plans by a clipped policy gradient, however far that leads from the plans that are made now.

    Black et al., "Training diffusion models with reinforcement learning", ICLR 2024, with advantages within the plans
    from one place.
    """

    times: int = 2
    """How often a batch of plans is learned from."""
    ratio: float = 0.2
    """How far the probability of a step may leave what it was before its plan is heard no more."""
    penalty: float = 0.0
    """What a divergence of one nat from where it began costs, in standard deviations of the reward."""

    def method(self, walk: Walk, deviation: float) -> PolicyGradient:
        """Advantages are in deviations already."""
        return PolicyGradient(walk, clip=self.ratio, penalty=self.penalty)
