"""Planning with a map: the shortest way through a maze's cells. Privileged: it is told what agents have to learn."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from kedge.envs.layout import WALL_OFFSET, Layout
from kedge.envs.model import TIMESTEP
from kedge.envs.waypoints import Routes
from kedge.errors import InputError
from kedge.plan.proposer import Frames


@dataclass(frozen=True)
class ShortestPath:
    """One candidate: the way that A* finds, from our cell through the middle of those between to the goal, at a steady
    speed. (All cells cost the same, so that a breadth-first search from the goal finds the same lengths for all of
    them at once.)

    The goal is the maze's own. Followed by the follower of a planner, it says what that follower makes of a plan which
    is as short as cells allow.

    speed: metres from one step to the next
    """

    layout: Layout
    horizon: int = 32
    stride: int = 15
    speed: float = 0.035
    _routes: Routes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_routes", Routes(self.layout))

    def propose(
        self,
        states: Float[Tensor, "b s"],
        seeds: Int64[Tensor, "b n"],
        goal: Float[Tensor, "b g"] | None = None,
        kept: Float[Tensor, "b h s"] | None = None,
        frames: Frames | None = None,
    ) -> Float[Tensor, "b n h s"]:
        """See `Proposer`; all candidates of a situation are the same one."""
        n = seeds.shape[1]
        plans = [self._plan(np.asarray(state, dtype=float)) for state in states]
        return torch.from_numpy(np.stack(plans)).float()[:, None].expand(-1, n, -1, -1)

    def _plan(self, state: Float[np.ndarray, " s"]) -> Float[np.ndarray, "h s"]:
        """Points at equal distances along the way, then at rest at the goal."""
        here = self.layout.cell_of(state[:2])
        if here not in self.layout.free:
            raise InputError(f"{self.layout.title}: no way leads out of a wall, at ({state[0]:g}, {state[1]:g})")
        way = self._routes.cells(here, self.layout.cell)
        cells = [np.asarray(cell, dtype=float) - WALL_OFFSET for cell in way[:-1]]
        corners = np.array([state[:2], *cells, self.layout.goal])
        lengths = np.linalg.norm(np.diff(corners, axis=0), axis=1)
        along = np.concatenate([[0.0], lengths.cumsum()])
        wanted = np.minimum(np.arange(self.horizon) * self.stride * self.speed, along[-1])
        points = np.stack([np.interp(wanted, along, corners[:, k]) for k in range(2)], 1)
        velocities = np.gradient(points, axis=0) / (self.stride * TIMESTEP)
        velocities[0], velocities[-1] = state[2:], 0.0
        return np.concatenate([points, velocities], 1)
