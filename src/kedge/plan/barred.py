"""Places that no plan may cross, told and not learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from kedge.constrain import Feasible

Box = tuple[float, float, float, float]
"""x from, y from, x to, y to."""


@dataclass(frozen=True)
class Barred:
    """Boxes of the first two dimensions of a state: x from, y from, x to, y to, in the data's own units.

    A guide moves plans out of such places; this says of which plans that is true, so that a judge takes one of those.
    """

    boxes: tuple[Box, ...]

    @classmethod
    def around(cls, boxes: Sequence[Box], margin: float = 0.0) -> Barred:
        """These boxes with so much around each."""
        return cls(tuple((x0 - margin, y0 - margin, x1 + margin, y1 + margin) for x0, y0, x1, y1 in boxes))

    def crossings(self, states: Float[Tensor, "*b h s"]) -> Int64[Tensor, "*b"]:
        """How many segments of each trajectory meet a box. Where a trajectory begins in a box it may leave it: the
        segments before it is first outside do not count.

        A segment `a + s (b - a)` is within a slab for an interval of s; it meets the box where the intervals of both
        axes and [0, 1] have a point in common.
        """
        a, b = states[..., :-1, :2], states[..., 1:, :2]
        counts = torch.zeros(states.shape[:-2], dtype=torch.int64, device=states.device)
        for box in self.boxes:
            low, high = states.new_tensor(box[:2]), states.new_tensor(box[2:])
            step = b - a
            step = torch.where(step == 0, torch.finfo(step.dtype).tiny, step)
            s0, s1 = (low - a) / step, (high - a) / step
            enters = torch.minimum(s0, s1).amax(-1).clamp(min=0)
            leaves = torch.maximum(s0, s1).amin(-1).clamp(max=1)
            began = ((a > low) & (a < high)).all(-1).long().cumprod(-1)
            counts += ((enters < leaves) & (began == 0)).sum(-1)
        return counts


@dataclass(frozen=True)
class Unmet:
    """Constraints that a plan may miss by `most` at the worst, in the data's own units, and what else is barred."""

    feasible: Feasible
    other: Barred | Unmet | None = None
    most: float = 1e-4

    def crossings(self, states: Float[Tensor, "*b h s"]) -> Int64[Tensor, "*b"]:
        """1 for a trajectory that misses them, and what the rest counts."""
        missed = (self.feasible.missed(states) > self.most).long()
        return missed if self.other is None else missed + self.other.crossings(states)


def best(score: Float[Tensor, "b n"], crossings: Int64[Tensor, "b n"] | None = None) -> Int64[Tensor, " b"]:
    """The candidate of the highest score among those that cross least: a crossing counts for more than all that the
    scores of a situation can differ by.
    """
    if crossings is None:
        return score.argmax(1)
    least = crossings.amin(1, keepdim=True)
    return torch.where(crossings == least, score, -torch.inf).argmax(1)
