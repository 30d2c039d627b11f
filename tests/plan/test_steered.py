"""An agent that is steered: what its plans come to, what stays pinned, and which of them is followed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kedge.constrain import OutsideBox
from kedge.data import Normaliser
from kedge.errors import InputError
from kedge.paths import Trig
from kedge.plan import Agent, Chase, Judge, Planner
from kedge.plan.barred import Barred
from kedge.plan.planner import Nearby
from kedge.steer import (
    Along,
    BiasedInitialisation,
    ComeTo,
    GuidedDiffusion,
    OutputPerturbation,
    PostHocRanking,
    RandomSampling,
    StochasticSampling,
    Way,
)
from kedge.walk.grids import Rho
from kedge.walk.solvers import DPMSolverPP
from plan.agents import agent_of
from plan.test_planner import H, Told

LINE = [[0.0, 0.0], [2.0, 2.0], [6.0, 2.0]]
HERE = np.array([1.0, 2.0, 0.0, 0.0])
PATH = Trig()


def agent(**more: Any) -> Agent:
    """A random walk of positions and velocities, exactly, in units of 2 about 1."""
    normaliser = Normaliser(torch.ones(4), torch.full((4,), 2.0))
    planner = Planner(Told(PATH, [0, 1, 2, 3], 4), normaliser, H, 5, DPMSolverPP(2), Rho(5, 3.0, 0.05, 10.0), 4)
    judge = Judge(lambda plans: plans[:, -1, 0], normaliser)
    return Agent(replace(planner, **more), judge, Chase(2), candidates=32)


@pytest.mark.parametrize("way", [GuidedDiffusion(weight=50), StochasticSampling(weight=50), BiasedInitialisation()])
def test_plans_come_nearer_and_begin_where_we_are(way: Way) -> None:
    to = Along.of(LINE)
    plain, steered = agent().steered(to, RandomSampling()).plan(HERE), agent().steered(to, way).plan(HERE)
    assert plain.xi is not None
    assert steered.xi is not None
    assert steered.xi.mean() < 0.75 * plain.xi.mean()
    for plan in (plain, steered):
        assert np.abs(plan.states[0, :, 0] - HERE).max() < 1e-6
        by_hand = to(torch.from_numpy(plan.states[0]))
        np.testing.assert_allclose(np.asarray(plan.xi)[0], by_hand.numpy(), rtol=1e-6)


def test_plans_within_constraints_are_the_only_ones_followed() -> None:
    """Of all candidates that satisfy them, and no other; what else is barred counts as it did."""
    zone = OutsideBox(2.0, 1.0, 3.0, 3.0)
    first = agent()
    assert float((zone.missed(torch.from_numpy(first.plan(HERE).states)) > 0).float().mean()) > 0.3
    held = first.within(zone, tighten=0.1)
    states = torch.from_numpy(held.plan(HERE).states)
    assert float(zone.missed(states).max()) == 0
    assert float(zone.tightened(0.1).missed(states).max()) < 1e-5
    assert np.abs(states[0, :, 0].numpy() - HERE).max() < 1e-6
    other = Barred(((4.0, -50.0, 50.0, 50.0),))
    both = replace(first, judge=replace(first.judge, barred=other)).within(zone).judge
    plain = torch.from_numpy(first.plan(HERE).states)
    assert torch.equal(both.crossings(plain), other.crossings(plain) + (zone.missed(plain) > 1e-4).long())


def test_constraints_want_a_planner_that_denoises() -> None:
    with pytest.raises(InputError, match="does not denoise its plans, so that there is no walk"):
        agent_of().within(OutsideBox(0.0, 0.0, 1.0, 1.0))


def test_nothing_is_built_and_nothing_stays() -> None:
    """Steering again replaces; the agent that was steered is as it was."""
    plain = agent()
    before = plain.plan(HERE, seed=3).states
    once = plain.steered(ComeTo((9.0, 9.0)), GuidedDiffusion())
    twice = once.steered(ComeTo((-9.0, 0.0)), GuidedDiffusion())
    assert isinstance(once.proposer, Planner)
    assert isinstance(plain.proposer, Planner)
    assert once.proposer.denoiser is plain.proposer.denoiser
    direct = plain.steered(ComeTo((-9.0, 0.0)), GuidedDiffusion()).plan(HERE, seed=3)
    np.testing.assert_array_equal(twice.plan(HERE, seed=3).states, direct.states)
    assert not np.array_equal(once.plan(HERE, seed=3).states, direct.states)
    np.testing.assert_array_equal(plain.plan(HERE, seed=3).states, before)
    assert plain.plan(HERE).xi is None


def test_plans_do_not_depend_on_the_batch() -> None:
    steered = agent().steered(Along.of(LINE))
    both = np.stack([HERE + 1, HERE])
    together, alone = steered.plan(both, seed=2), steered.plan(HERE, seed=2)
    np.testing.assert_allclose(together.states[1], alone.states[0], atol=1e-5)


def test_which_plan_is_followed() -> None:
    to = ComeTo((3.0, 3.0))
    by_critic = agent().steered(to, RandomSampling()).plan(HERE)
    assert by_critic.best[0] == by_critic.values[0].argmax()
    ranked = agent().steered(to, PostHocRanking()).plan(HERE)
    assert ranked.xi is not None
    np.testing.assert_array_equal(ranked.states, by_critic.states)
    assert ranked.best[0] == ranked.xi[0].argmin() != by_critic.best[0]
    between = agent().steered(to, RandomSampling(weigh=0.5)).plan(HERE)
    assert between.best[0] == (between.values[0] - 0.5 * np.asarray(between.xi)[0]).argmax()


def test_a_correction_moves_where_it_is_planned_from() -> None:
    pushed = agent().steered(Along.of(LINE), OutputPerturbation(push=(0.5, -1.0))).plan(HERE, seed=1)
    there = np.array([1.5, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(pushed.states, agent().plan(there, seed=1).states, atol=1e-6)
    assert np.abs(pushed.states[0, :, 0] - there).max() < 1e-6


def test_candidates_near_the_last_plan_are_steered_too() -> None:
    """All of them are near it here."""
    nearby = Nearby(Rho(3, 3.0, 0.05, 3.0), share=1.0)
    kept = np.zeros((1, H, 4)) + HERE
    seeds = torch.arange(32)[None]
    to = Along.of(LINE)
    found = {}
    for name, way in {"plain": RandomSampling(), "guided": GuidedDiffusion(weight=50)}.items():
        found[name] = agent(nearby=nearby).steered(to, way).consider(HERE[None], seeds, kept=kept)
    assert found["guided"].states.shape == (1, 33, H, 4)
    assert found["guided"].xi[0, :32].mean() < 0.75 * found["plain"].xi[0, :32].mean()
    assert found["guided"].xi[0, 32] == found["plain"].xi[0, 32]  # the plan that was kept


def test_who_does_not_denoise_can_be_ranked_and_pushed() -> None:
    straight = agent_of()
    ranked = straight.steered(ComeTo((0.0, 0.0)), PostHocRanking()).plan(np.zeros(4))
    assert ranked.best[0] == 0
    assert straight.plan(np.zeros(4)).best[0] == 2
    assert (
        straight.steered(ComeTo((0.0, 0.0)), OutputPerturbation(push=(1.0,))).plan(np.zeros(4)).states[0, 0, 0, 0] == 1
    )
    with pytest.raises(InputError, match="PostHocRanking"):
        straight.steered(ComeTo((0.0, 0.0)))
