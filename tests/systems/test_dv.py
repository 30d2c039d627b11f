"""Diffusion Veteran, small: a transformer's plans, the best by a transformer critic, actions by diffusion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kedge.nets import DiT1D
from kedge.paths import VariancePreserving
from kedge.plan import Invert
from kedge.recipes import DV
from kedge.recipes.training import Training
from kedge.rl import InverseDiffusion, MinusSteps, PlanTransformer
from kedge.train import Tick
from kedge.walk.solvers import DDIM
from small_maze import logs

pytestmark = pytest.mark.system

SMALL = DV(
    steps=40, batch=12, width=32, depth=1, horizon=8, stride=20, evaluations=5, candidates=8, replan=20, ahead=10,
    rate=5e-3, critic_rate=1e-3, ema=0.95,
)  # fmt: skip


def test_it_is_made_of_what_the_paper_says() -> None:
    training = Training(DV(steps=1), logs(), None, progress=False)
    models = training.models
    assert models.critic is not None
    assert isinstance(models.planner.path, VariancePreserving)
    assert isinstance(models.planner.denoiser.net, DiT1D)
    assert isinstance(models.critic.net, PlanTransformer)
    assert isinstance(models.critic.target, MinusSteps)
    assert isinstance(models.inverse, InverseDiffusion)
    steps = training.trainer.source.windows.next(Tick(0, 0))["steps"]  # type: ignore[attr-defined]
    assert float(steps.max()) <= 799, "what is learned from ends at a success, and begins 800 steps before it at most"
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in models.trained().items()}
    assert sizes["planner"] == pytest.approx(2.6e6, rel=0.03)
    assert sizes["critic"] == pytest.approx(1.6e6, rel=0.03)
    assert sizes["inverse"] == pytest.approx(0.17e6, rel=0.03)
    agent: Any = training.agent()
    assert isinstance(agent.follower, Invert)
    assert (agent.candidates, agent.replan, agent.keep, agent.judge.support) == (50, 1, False, None)
    assert isinstance(agent.proposer.solver, DDIM)
    assert len(agent.proposer.grid.levels(models.planner.path).rows()) - 1 == 20


def test_seconds_of_training_make_plans_that_hang_together() -> None:
    """The largest step of the chosen plans, against that of the same agent untrained, from the same states."""
    here = logs().observations[::1500].astype(float)
    agents = (recipe.train(logs(), progress=False) for recipe in (SMALL, replace(SMALL, steps=1)))
    steps = [agent.plan(here).largest_step()[:, 0] for agent in agents]
    assert steps[0].mean() < 0.7 * steps[1].mean()
    assert (steps[0] < steps[1]).mean() > 0.75
