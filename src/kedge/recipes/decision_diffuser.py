"""Decision Diffuser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from kedge.cond import Cond, said
from kedge.data import Trajectories, Worths
from kedge.denoise import Denoiser
from kedge.errors import InputError
from kedge.fit import DenoisingLoss, Example
from kedge.guide import Composed
from kedge.plan import Agent
from kedge.recipes import networks
from kedge.recipes.networks import Models, Sizes
from kedge.recipes.planning import CriticName, FollowerName, Planning
from kedge.recipes.sources import Companion
from kedge.train import Batch
from kedge.walk.hooks import Cool
from kedge.walk.solvers import SolverName

RETURN = "returns"


@dataclass(frozen=True)
class DecisionDiffuser(Planning):
    """States are denoised given the return that they are to bring, by classifier-free guidance and at low temperature;
    learned inverse dynamics gives the action. No critic is asked, and there is one candidate.

    Ajay et al., "Is conditional generative modeling all you need for decision-making?", ICLR 2023 (arXiv:2211.15657).
    The network, its path and its training are those of this family, so that minutes suffice. The paper's plans hold
    every step and its past the last 20; here the points of both lie `stride` steps apart. Its returns
    are those of the data over their greatest; in a maze no plan from afar can have that, so that returns are counted
    among those from the same place (`among`).
    """

    goals: float = 0.0
    aim: bool = False
    solver: SolverName = "ddpm"
    evaluations: int = 20
    critic: CriticName = "none"
    candidates: int = 1
    support: float = 0.0
    keep: bool = False
    nearby: float = 0.0
    follow: FollowerName = "inverse"
    ahead: int = 15
    toward: float = 1.2
    """How much the difference counts that a condition makes: 1 is the conditional model, 0 the unconditional one."""
    drop: float = 0.25
    """How often a condition is left out in training."""
    target: float = 0.95
    """The return that plans are told to bring, between 0 and 1."""
    among: float = 0.5
    """The side of the places within which returns are compared; 0 for returns as they are."""
    temperature: float = 0.5
    """Of the noise that a plan is made of."""
    labels: tuple[tuple[str, int], ...] = ()
    """Columns of the data that plans are conditioned on as well, each by its name and width: a skill, a constraint that
    is met. What they are to be is said by `agent.conditioned(name=...)`; until then they are not heard."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least, most in (("drop", 0.0, 1.0), ("temperature", 0.0, 1.0), ("target", 0.0, 1.0)):
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{type(self).__name__}: {name} lies between 0 and 1, got {getattr(self, name)}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Where windows start, and the labels."""
        return ("start", *(name for name, _ in self.labels))

    @property
    def heard(self) -> dict[str, int]:
        """The fields of the condition and their widths."""
        return {RETURN: 1, **dict(self.labels)}

    def denoising(self, sizes: Sizes) -> DenoisingLoss:
        """Conditioned on the return and on labels, each of them left out at times."""
        denoiser = Denoiser(
            networks.network(self, sizes.state, self.heard), networks.path_of(self), self.predict, pinned="clean"
        )

        def read(batch: Batch) -> Example:
            known = networks.known(batch, sizes.state, self.past, sizes.still)
            return Example(batch["states"], self._heard(batch), known)

        return DenoisingLoss(
            denoiser, networks.proposal_of(self), networks.weighting_of(self), read=read,
            drop=dict.fromkeys(self.heard, self.drop),
        )  # fmt: skip

    def _heard(self, batch: Batch) -> Cond | None:
        """What a batch says of its windows; a window that ends where hindsight says brings nothing in particular."""
        if RETURN not in batch:
            return None
        now = {name: batch[name][:, self.past].flatten(1).to(batch["states"]) for name, _ in self.labels}
        cond = Cond.of(**{RETURN: batch[RETURN]}, **now)
        return Cond(cond.fields, {name: mask & ~batch["told"] for name, mask in cond.keep.items()})

    def companions(self, logs: Trajectories, models: Models, device: torch.device | None = None) -> Sequence[Companion]:
        """What came of each window."""
        return (Worths(logs, self.discount, self.among),)

    def agent(self, models: Models, goal: Float[np.ndarray, " g"] | None = None) -> Agent:
        """Told the target, and cooled."""
        made = super().agent(models, goal)
        planner: Any = made.proposer
        nothing = Cond.of(**{name: torch.zeros(1, width) for name, width in self.heard.items()}).without()
        given = said(type(self).__name__, nothing, {RETURN: self.target})
        guides, hooks = (Composed(self.toward), *planner.guides), (Cool(self.temperature), *planner.hooks)
        told = replace(planner, given=given, guides=guides, hooks=hooks, temperature=self.temperature)
        return replace(made, proposer=told)
