"""A grid fitted to a trained planner: on its own long walks, from starts of its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kedge.data import Trajectories
from kedge.denoise import as_estimator
from kedge.distill.imitate import Imitation, by_hand, scales_of, teacher_ends
from kedge.distill.klub import Klub
from kedge.distill.regularity import Teachings
from kedge.distill.spectrum import tangent, variances_of
from kedge.distill.subject import Subject, endpoint_error
from kedge.errors import InputError
from kedge.plan import Agent, Planner
from kedge.walk.grids import Fitted
from kedge.walk.grids.levels import Grid

Method = Literal["gits", "ays", "ld3", "tangent"]
ENDS = 0.1
"""How far below the cleanest level of the recipe's own grid levels are looked for, as a share of its noise scale."""
TEACHER = 40
"""Steps of a long walk, of three evaluations each."""


@dataclass(frozen=True)
class FitGrid:
    """A grid for a trained planner: the noise scales at which its walks stop, found on its own long walks from states
    of its data, and tried on walks from others.
    """

    steps: int = 5
    """Network evaluations of a walk."""
    method: Method = "gits"
    """gits: by the shape of trajectories; ays: by a bound on the relative entropy; ld3: by the gradient through the
    walk; tangent: by the spectrum of plans."""
    samples: int = 256
    """Plans by which the grid is found, and as many on which it is tried."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise InputError(f"steps: a grid that is fitted has 2 or more, got {self.steps}")
        if self.samples < 8:
            raise InputError(f"samples must be at least 8, got {self.samples}")

    def fit(self, agent: Agent, logs: Trajectories, seed: int = 0) -> Found:
        """The grid, and how far walks over it and over others end from long ones.

        Args:
            agent: of a planning recipe.
            logs: whose states are planned from.
            seed: of the states and of all noise.
        """
        planner = replace(planner_of(agent), steering=None, feasible=None, simulated=None)
        subject, ends = self.subject(planner, agent, logs, seed)
        grid = self.found(planner, subject, ends)
        other, others = self.subject(planner, agent, logs, seed + 1)
        tried: dict[str, Grid] = {"fitted": grid, "the recipe's": planner.grid, **by_hand(other, self.steps)}
        errors = {name: endpoint_error(other, planner.solver, one, others) for name, one in tried.items()}
        return Found(grid, errors, subject.low, subject.high)

    def subject(self, planner: Planner, agent: Agent, logs: Trajectories, seed: int) -> tuple[Subject, Tensor]:
        """Long walks from states of the data, and where they end."""
        places = np.random.default_rng(seed).integers(0, len(logs), self.samples)
        states = torch.from_numpy(logs.observations[places].astype(np.float32)).to(planner.normaliser.shift)
        goal = None if agent.goal is None else torch.as_tensor(agent.goal).to(states).expand(len(states), -1)
        mask, values = planner.known(states, goal)
        own = own_scales(planner)
        begun = Subject(
            planner.guided, torch.where(mask, values, 0.0), ENDS * float(own[-1]), float(own[0]),
            cond=planner.told(len(states)), known=mask, hooks=planner.hooks, temperature=planner.temperature, seed=seed,
        )  # fmt: skip
        ends = teacher_ends(begun, TEACHER)
        return replace(begun, x=ends), ends

    def found(self, planner: Planner, subject: Subject, ends: Tensor) -> Fitted:
        """By the method."""
        n, high = self.steps, subject.high
        ways: dict[str, Callable[[], Fitted]] = {
            "gits": lambda: Teachings.of(subject).grid(n),
            "ays": lambda: Klub.measured(subject).grid(n),
            "ld3": lambda: Imitation().grid(subject, planner.solver, n, ends),
            "tangent": lambda: _fitted(tangent(variances_of(subject), n, high), subject),
        }
        if self.method not in ways:
            raise InputError(f"there is no method {self.method!r}; known are {', '.join(ways)}")
        return ways[self.method]()


@dataclass(frozen=True)
class Found:
    """A fitted grid; the root mean square distance of its walks' ends from long ones, with that of other grids, in the
    units that the network sees; and the noise scales between which it was looked for.
    """

    grid: Fitted
    errors: dict[str, float]
    low: float
    high: float


def on_fitted(agent: Agent, grid: Fitted) -> Agent:
    """The agent whose plans are walked over this grid."""
    return replace(agent, proposer=replace(planner_of(agent), grid=grid))


def planner_of(agent: Agent) -> Planner:
    """Of an agent that denoises its plans in one walk."""
    planner = agent.proposer
    if not isinstance(planner, Planner):
        raise InputError(f"{agent.name} does not denoise its plans in one walk: no grid to fit")
    return planner


def own_scales(planner: Planner) -> Float[np.ndarray, " n"]:
    """The noise scales of a planner's own grid."""
    path = as_estimator(planner.denoiser).path
    rows = [float(t) for t in planner.grid.levels(path).rows()]
    return np.array([path.noise_scale(t) for t in rows if t > 0])


def _fitted(grid: Grid, subject: Subject) -> Fitted:
    return Fitted(tuple(scales_of(grid, subject).tolist()))
