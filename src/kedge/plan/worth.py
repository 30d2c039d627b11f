"""What a plan is worth, beside what the critic says: rewards to align a planner to, and to measure it by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kedge.align import Reward
from kedge.errors import InputError
from kedge.plan.agent import Agent
from kedge.plan.support import along
from kedge.tree import sum_event

BETWEEN = 6
"""Points looked at between neighbouring points of a plan."""


@dataclass(frozen=True)
class Sooner:
    """The share of a plan's points that are within `reach` of `goal`: the sooner there, the more."""

    goal: tuple[float, ...]
    reach: float = 0.5

    def __call__(self, states: Float[Tensor, "b h s"], cond: object = None) -> Float[Tensor, " b"]:
        """See the class."""
        d = len(self.goal)
        away = (states[..., :d] - states.new_tensor(self.goal)).norm(dim=-1)
        return (away <= self.reach).to(states).mean(1)


@dataclass(frozen=True)
class Outside:
    """Minus the share of a plan's way, in time, that lies in a box of its first two dimensions."""

    box: tuple[float, float, float, float]

    @classmethod
    def of(cls, box: Sequence[float | int]) -> Outside:
        """x from, y from, x to, y to, in the data's own units."""
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            raise InputError(f"a box is x from, y from, x to, y to, each from less than its to; got {list(box)}")
        x0, y0, x1, y1 = (float(edge) for edge in box)
        return cls((x0, y0, x1, y1))

    def __call__(self, states: Float[Tensor, "b h s"], cond: object = None) -> Float[Tensor, " b"]:
        """See the class."""
        x0, y0, x1, y1 = self.box
        points = along(states[..., :2], BETWEEN)
        inside = (points > points.new_tensor([x0, y0])) & (points < points.new_tensor([x1, y1]))
        return -inside.all(-1).to(states).flatten(1).mean(1)


def diversity(plans: Float[Tensor, "b n h s"], dims: int = 2) -> Float[Tensor, " b"]:
    """How far apart the plans from one place are: the mean distance of two of them, over their points."""
    points = plans[..., :dims]
    n = points.shape[1]
    apart = (points[:, :, None] - points[:, None]).norm(dim=-1).mean(-1)
    return apart.sum((1, 2)) / (n * (n - 1))


def looked_at(
    agent: Agent, worth: Reward, states: Float[np.ndarray, "b s"], each: int, seed: int = 0
) -> dict[str, Float[np.ndarray, " b"]]:
    """Of `each` plans from each of these states: their mean reward, how far apart they are, and the share of them that
    lies where the logs have been. The reward hears plans, and where they begin, as in training.
    """
    made = agent.plan(states, candidates=each, seed=seed)
    plans = torch.from_numpy(made.states)
    starts = torch.from_numpy(states).float().repeat_interleave(each, 0)
    said = torch.as_tensor(worth(plans.flatten(0, 1), {"states": starts}))
    value = sum_event(said).reshape(len(states), each)  # a reward of each entry is worth their sum, as in training
    return {
        "reward": value.detach().double().mean(1).numpy(),
        "diversity": diversity(plans).double().numpy(),
        "inside": made.feasible.mean(1).astype(float),
    }
