"""Acting by planning again and again."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from kedge.envs.task import Planned
from kedge.plan.follow import Paths
from kedge.plan.plan import Plan
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
        self.step, self.rounds = 0, 0

    def reset(self, seeds: Sequence[int]) -> None:
        """Begins an episode for each seed."""
        self.seeds = np.asarray(seeds, dtype=np.int64)
        self.step, self.rounds = 0, 0
        self.plans = []
        self._paths: Paths | None = None
        self._lived: list[np.ndarray] = []

    @property
    def due(self) -> bool:
        """Whether it plans when it acts next."""
        return self.step % self.agent.replan == 0

    def act(
        self, observations: Float[np.ndarray, "n state"], active: Bool[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n act"]:
        """Plans if it is time to, and follows."""
        return self.together([self], [observations], [active])[0]

    @staticmethod
    def together(
        controllers: Sequence[Receding], observations: Sequence[np.ndarray], active: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """What each does, whatever its step: those that plan do so in one call of their agent, which is the same."""
        paths = [each._on(here) for each, here in zip(controllers, observations, strict=True)]
        due = [
            (each, here, np.flatnonzero(acting))
            for each, here, acting in zip(controllers, observations, active, strict=True)
            if each.due and acting.any()
        ]
        rounds = [(each.keeps, each.moment) for each, *_ in due]  # in its first one a controller has nothing to keep
        for one in dict.fromkeys(rounds):
            _plan([those for those, its in zip(due, rounds, strict=True) if its == one], kept=one[0])
        seeds = torch.cat([candidate_seeds(each.seeds + FOLLOWING, each.step, 1)[:, 0] for each in controllers])
        for each in controllers:
            each.step += 1
        actions = controllers[0].agent.follower.act(_one(observations), Paths.joined(paths), seeds)
        return np.split(actions, np.cumsum([len(here) for here in observations])[:-1])

    def copied(self) -> Receding:
        """One that goes on from here by itself, and leaves this one as it is."""
        made = copy(self)
        made.plans = list(self.plans)
        made._paths = None if self._paths is None else self._paths.copied()
        made._lived = list(self._lived)
        return made

    @property
    def moment(self) -> int:
        """The step that its plans depend on, where they do."""
        return self.step if getattr(self.agent, "timed", False) else 0

    @property
    def keeps(self) -> bool:
        """Whether what is left of the last plan is a candidate of the next."""
        return self.agent.keep and self.rounds > 0

    def _on(self, observations: Float[np.ndarray, "n state"]) -> Paths:
        """Its paths, moved on to where the episodes are."""
        if self._paths is None:
            proposer = self.agent.proposer
            count, width = observations.shape
            places = tuple(range(max(width // 2, 1)))
            timed = getattr(self.agent.follower, "timed", False)
            self._paths = Paths(count, proposer.horizon, proposer.stride, width, places, timed)
        self._paths.advance(observations)
        if self.past:
            self._lived = [*self._lived[-self.past * self.agent.proposer.stride :], observations.astype(float)]
        return self._paths

    @property
    def past(self) -> int:
        """How many points of where it has been the planner hears."""
        return getattr(self.agent.proposer, "past", 0)

    def _before(self, who: Int[np.ndarray, " b"]) -> Float[np.ndarray, "b past state"]:
        """What was executed, a stride apart, up to the point before now; before an episode began it stood there."""
        begun = self._lived[0][who].copy()
        begun[:, list(getattr(self.agent.proposer, "rest", ()))] = 0.0
        back = [len(self._lived) - 1 - k * self.agent.proposer.stride for k in range(self.past, 0, -1)]
        return np.stack([self._lived[k][who] if k >= 0 else begun for k in back], 1)

    def _rest(self, who: Int[np.ndarray, " b"], here: Float[np.ndarray, "b state"]) -> Float[np.ndarray, "b h state"]:
        """What is left of the last plans, from where we are."""
        assert self._paths is not None
        rest = self._paths.rest(who, self.agent.proposer.horizon)
        rest[:, 0] = here
        return rest

    def _take(self, who: Int[np.ndarray, " b"], plan: Plan, some: slice) -> None:
        """Its share of what was planned."""
        assert self._paths is not None
        chosen = plan.trajectory[some]
        self._paths.put(who, chosen.astype(float))
        self.plans.append(Planned(self.step, plan.stride, who, chosen[..., :2].astype(np.float32), plan.value[some]))
        self.rounds += 1


def _plan(due: Sequence[tuple[Receding, np.ndarray, np.ndarray]], kept: bool) -> None:
    """New plans for those episodes of each controller, at once; all keep what is left of the last one, or none does."""
    if not due:
        return
    first = due[0][0]
    here = _one([observations[who] for _, observations, who in due])
    seeds = torch.cat([candidate_seeds(each.seeds[who], each.rounds, each.candidates) for each, _, who in due])
    rest = _one([each._rest(who, observations[who]) for each, observations, who in due]) if kept else None
    agent = first.agent.at(first.step) if getattr(first.agent, "timed", False) else first.agent
    been: dict[str, Any] = {"before": _one([each._before(who) for each, _, who in due])} if first.past else {}
    plan = agent.consider(here, seeds, kept=rest, **been)
    ends = np.cumsum([len(who) for _, _, who in due]).tolist()
    for (each, _, who), begin, end in zip(due, [0, *ends], ends, strict=False):
        each._take(who, plan, slice(begin, end))


def _one(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
