"""Advantage-weighted matching on a planner: good plans are denoised better."""

from __future__ import annotations

from dataclasses import dataclass

from kedge.align import Matching
from kedge.plan import Planner
from kedge.recipes.align import Align, stepped
from kedge.walk import Walk


@dataclass(frozen=True)
class AWM(Align):
    """Trains on its own plans, each as much as it was better than others from the same place: no density of any walk is
    asked for, and plans are drawn as the agent draws them.

    "Advantage weighted matching: aligning RL with pretraining in diffusion models".
    """

    evaluations: int = 5
    """Network evaluations of a plan, by the agent's own solver."""
    draws: int = 6
    """How often each plan is denoised in a step."""
    penalty: float = 0.01
    """What a squared distance from the estimates of the planner as it began costs."""
    trust: float = 1.0
    """... and of that from a moving average of the weights."""

    def walk(self, planner: Planner) -> Walk:
        """The planner's own."""
        return Walk(planner.denoiser, planner.solver, stepped(planner.grid, self.evaluations))

    def method(self, walk: Walk, deviation: float) -> Matching:
        """Advantages are in deviations already."""
        return Matching(walk, draws=self.draws, penalty=self.penalty, trust=self.trust)
