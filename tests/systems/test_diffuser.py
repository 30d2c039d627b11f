"""Diffuser: its guidance where the answer is known, its goals by inpainting, and both in a maze."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kedge.data import Normaliser
from kedge.exact import GaussianMixture, Quadratic
from kedge.guide import Gradient
from kedge.nets import HalfUNet1D
from kedge.paths import Cosine
from kedge.plan import Planner
from kedge.plan.proposer import candidate_seeds
from kedge.recipes import Diffuser
from kedge.recipes.training import Training
from kedge.walk.grids import LogSNR, Uniform
from kedge.walk.solvers import DDPM
from small_maze import latched, logs, maze

pytestmark = pytest.mark.system

H, S, f64 = 6, 2, torch.float64
SMALL = Diffuser(
    steps=120, batch=24, width=16, mults=(1, 2, 4), horizon=16, evaluations=8, candidates=8, rate=2e-3, replan=20,
)  # fmt: skip


def prior() -> GaussianMixture:
    """Trajectories that hang together along their points."""
    k = torch.arange(H, dtype=f64)
    along = 0.5 * torch.exp(-((k[:, None] - k) ** 2) / 8) + 0.02 * torch.eye(H, dtype=f64)
    return GaussianMixture([1.0], torch.zeros(1, H, S, dtype=f64), torch.kron(along, torch.eye(S, dtype=f64))[None])


class Returned:
    """`log E[e^{c . x} | x_t]`, what a value network that hears the noise level is trained to say of a linear return:
    linear in x_t, `c . E[x | x_t]`, but for a constant.
    """

    def __init__(self, law: GaussianMixture, path: Cosine, c: Tensor) -> None:
        self.law, self.path, self.c = law, path, c

    def __call__(self, x_t: Tensor, t: Any) -> Tensor:
        return (self.law.posterior_mean(self.path, x_t, t) * self.c).sum((1, 2))


@pytest.mark.parametrize("weight", [0.5, 1.0, 2.0])
def test_a_linear_return_moves_a_gaussian_by_its_covariance(weight: float) -> None:
    """The tilt of `N(0, C)` by `w c . x` is `N(w C c, C)`: mean within 2% and what 4,000 plans leave, spread as before."""
    law, path = prior(), Cosine()
    c = torch.zeros(H, S, dtype=f64)
    c[-1, 0], c[2, 1] = 1.0, -0.7
    planner = Planner(
        denoiser=law.denoiser(path), normaliser=Normaliser(torch.zeros(S), torch.ones(S)), horizon=H, stride=1,
        solver=DDPM(), grid=LogSNR(60), dim=0, guides=(Gradient(Returned(law, path, c), weight),), at_once=4000,
    )  # fmt: skip
    n = 4000
    x, _ = walked(planner, n)
    tilted = law.tilt(Quadratic(torch.zeros(H * S, H * S, dtype=f64), weight * c.flatten()))
    mean, std = tilted.mean, tilted.covariance.diag().sqrt().reshape(H, S)
    allowed = 0.02 * mean.abs().max() + 4.5 * std / n**0.5
    assert ((x.mean(0) - mean).abs() < allowed).all()
    assert (x.std(0) / std - 1).abs().max() < 4.5 / (2 * n) ** 0.5 + 0.02


def walked(planner: Planner, n: int) -> tuple[Tensor, Planner]:
    """Plans whose first state is not pinned: with dim 0 nothing is known, and all that is denoised is read."""
    from dataclasses import replace

    from kedge.walk import Walk

    seeds = candidate_seeds(np.zeros(1, np.int64), 0, n)[0]
    walk = Walk(planner.guided, planner.solver, planner.grid)
    return walk.run(replace(planner)._start(walk, seeds, None), seeds=seeds).x.double(), planner


def test_it_is_made_of_what_the_paper_says() -> None:
    training = Training(Diffuser(steps=1), logs(), None, progress=False)
    models, agent = training.models, training.agent()
    assert models.value is not None
    assert isinstance(models.planner.path, Cosine)
    assert models.planner.denoiser.predict == "clean"
    assert isinstance(models.value.value.net, HalfUNet1D)
    assert isinstance(agent.proposer.solver, DDPM)
    assert isinstance(agent.proposer.grid, Uniform)
    assert len(models.normaliser.shift) == 6, "states and actions are denoised together"
    x = models.normaliser(torch.from_numpy(np.concatenate([logs().observations, logs().actions], 1)))
    assert x.abs().max() <= 1 + 0.2
    assert agent.goal is not None


def test_it_plans_to_a_goal_that_it_is_told_and_finds_it() -> None:
    """Plans begin where we are and end at the goal, at rest; followed, they are far better than those untrained."""
    agent = SMALL.train(logs(), progress=False)
    here, goal = maze().reset(seed=3)[0], np.array([1.0, 1.0])
    plan = agent.plan(here, goal=goal)
    np.testing.assert_allclose(plan.states[0, :, 0], np.broadcast_to(here, (8, 4)), atol=1e-5)
    np.testing.assert_allclose(plan.states[0, :, -1], np.broadcast_to([1, 1, 0, 0], (8, 4)), atol=1e-5)
    ours = latched(agent, 16)
    theirs = latched(Diffuser(**vars(SMALL) | {"steps": 1}).train(logs(), progress=False), 16)
    difference = ours - theirs
    assert difference.mean() > 20
    assert difference.mean() > 3 * difference.std(ddof=1) / len(difference) ** 0.5


def test_guidance_finds_plans_that_are_worth_more() -> None:
    """By the critic, which is not what guides: without guidance, and with much."""
    agent = SMALL.train(logs(), progress=False)
    from dataclasses import replace

    value = agent.proposer.guides[0]
    here = np.stack([maze().reset(seed=seed)[0] for seed in range(12)])
    worth = []
    for weight in (0.0, 1.0):
        guides = (Gradient(value.log_likelihood, weight),)
        guided = replace(agent, proposer=replace(agent.proposer, guides=guides))
        worth.append(guided.plan(here).values.mean(1))
    gained = worth[1] - worth[0]
    assert gained.mean() > 3 * gained.std(ddof=1) / len(gained) ** 0.5
