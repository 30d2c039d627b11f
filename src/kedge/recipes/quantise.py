"""A trained planner in few bits: calibrated on its own walks, nothing trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kedge.data import Trajectories
from kedge.denoise import Denoiser
from kedge.distill import Asked, NormalSteps, asked_on_walks, quantised
from kedge.errors import InputError
from kedge.plan import Agent, Planner
from kedge.plan.proposer import candidate_seeds


@dataclass(frozen=True)
class Quantise:
    """8-bit weights and activations for the network that makes plans, with static scales for all levels that are set on
    its own walks (Shang et al., "Post-training quantization on diffusion models", CVPR 2023). Critic, follower and what
    solvers compute stay in floats.
    """

    bits: int = 8
    """Of weights and activations, 2 to 8. The layers at the two ends of the network keep 8."""
    samples: int = 1024
    """Plans that are made to see what the network is asked."""
    mean: float = 0.4
    """Where in a walk it is listened to, on average: 0 is its last evaluation, next to data, 1 its first, of noise."""
    std: float = 0.4
    """And how far from there; what falls beyond an end is taken at it."""

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise InputError(f"bits are 2 to 8, got {self.bits}")
        if self.samples < 1:
            raise InputError(f"samples must be at least 1, got {self.samples}")
        if not self.std >= 0:
            raise InputError(f"std must be at least 0, got {self.std}")

    def apply(self, agent: Agent, logs: Trajectories, seed: int = 0) -> Agent:
        """The agent with a quantised planner; the one that was given stays as it is.

        Args:
            agent: of a planning recipe.
            logs: whose states are planned from.
            seed: of the states, the plans and the steps.
        """
        planner = planner_of(agent)
        places = np.random.default_rng(seed).integers(0, len(logs), self.samples)
        asked = self.asked(agent, logs.observations[places].astype(np.float32), seed)
        return replace(agent, proposer=replace(planner, denoiser=quantised(planner.denoiser, asked, self.bits)))

    def asked(self, agent: Agent, states: Float[np.ndarray, "n s"], seed: int = 0) -> Asked:
        """What the network is asked while it plans from these states to where the agent plans to."""
        planner, seeds = planner_of(agent), candidate_seeds(np.arange(len(states)) + seed * len(states), 0, 1)
        goal = None if agent.goal is None else torch.as_tensor(agent.goal, dtype=torch.float32).expand(len(states), -1)

        def walk(denoiser: Any) -> Tensor:
            return replace(planner, denoiser=denoiser).propose(torch.from_numpy(states), seeds, goal)

        return asked_on_walks(planner.denoiser, walk, NormalSteps(self.mean, self.std), seed)


def planner_of(agent: Agent) -> Planner:
    """Of an agent that denoises by a network of its own."""
    planner = agent.proposer
    if not isinstance(planner, Planner) or not isinstance(planner.denoiser, Denoiser):
        raise InputError(f"{agent.name} does not denoise its plans by a network of its own: nothing to quantise")
    return planner


def in_codes(weights: Mapping[str, Tensor], agent: Agent) -> dict[str, Tensor]:
    """The weights of a run with those of its planner as the quantised agent has them."""
    prefix = "planner.denoiser." if any(name.startswith("planner.") for name in weights) else "denoiser."
    kept = {name: value for name, value in weights.items() if not name.startswith(prefix)}
    own = planner_of(agent).denoiser.state_dict()
    return kept | {prefix + name: value.detach().cpu() for name, value in own.items()}
