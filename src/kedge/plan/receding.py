"""Acting by planning again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from kedge.envs.task import Planned
from kedge.plan.follow import Paths
from kedge.plan.proposer import candidate_seeds

if TYPE_CHECKING:
    from kedge.plan.agent import Agent

FOLLOWING = 0x466F6C6C6F77
"""Sets the seeds of followers apart from those of plans."""


class Receding:
    """An agent in many episodes at once: it plans for all that are still active, every `agent.replan` steps.

    An episode's plans follow from its seed and what happened in it; its neighbours do not matter.
    """

    def __init__(self, agent: Any, candidates: int) -> None:
        self.agent: Agent = agent
        self.candidates = candidates
        self.plans: list[Planned] = []

    def reset(self, seeds: Sequence[int]) -> None:
        """Begins an episode for each seed."""
        self.seeds = np.asarray(seeds, dtype=np.int64)
        self.step, self.rounds = 0, 0
        self.plans = []
        self._paths: Paths | None = None

    def act(
        self, observations: Float[np.ndarray, "n state"], active: Bool[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n act"]:
        """Plans if it is time to, and follows."""
        if self._paths is None:
            proposer = self.agent.proposer
            count, width = observations.shape
            places = tuple(range(max(width // 2, 1)))
            self._paths = Paths(count, proposer.horizon, proposer.stride, width, places)
        self._paths.advance(observations)
        if self.step % self.agent.replan == 0 and active.any():
            self._plan(observations, active, self._paths)
        seeds = candidate_seeds(self.seeds + FOLLOWING, self.step, 1)[:, 0]
        self.step += 1
        return self.agent.follower.act(observations, self._paths, seeds)

    def _plan(self, observations: Float[np.ndarray, "n state"], active: Bool[np.ndarray, " n"], paths: Paths) -> None:
        who = np.flatnonzero(active)
        here = observations[who]
        kept = None
        if self.agent.keep and self.rounds:
            kept = paths.rest(who, self.agent.proposer.horizon)
            kept[:, 0] = here
        seeds = candidate_seeds(self.seeds[who], self.rounds, self.candidates)
        plan = self.agent.consider(here, seeds, kept=kept)
        paths.put(who, plan.trajectory.astype(float))
        points = plan.trajectory[..., :2].astype(np.float32)
        self.plans.append(Planned(self.step, plan.stride, who, points, plan.value))
        self.rounds += 1
