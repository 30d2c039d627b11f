"""VMPO on a planner: as much likelier as the reward says, and no further."""

from __future__ import annotations

from dataclasses import dataclass

from kedge import align
from kedge.recipes.align import Align
from kedge.walk import Walk


@dataclass(frozen=True)
class VMPO(Align):
    """Aims at the tilt `p e^{reward / beta}` of the plans that are made now, and goes no further.

    "Diffusion alignment beyond KL: variance minimisation as effective policy optimiser", with the reward at the end of
    a walk and the mean taken over plans from one place.
    """

    nats: float = 2.0
    """How strongly: the divergence, in nats, that a reward of one standard deviation above the mean is worth. The
    deviation is that of plans from one place, before anything is moved."""

    def method(self, walk: Walk, deviation: float) -> align.VMPO:
        """`beta = deviation / nats`."""
        return align.VMPO(walk, deviation / self.nats, baseline="group")
