"""Planning again and again: when, for whom, from what, with whose noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from kedge.envs.task import Controller
from kedge.paths import Trig
from kedge.plan.follow import Paths
from plan.agents import Straight, agent_of
from plan.test_planner import Told, planner


def states(count: int, x: float = 0.0) -> np.ndarray:
    made = np.zeros((count, 4))
    made[:, 1] = np.arange(count)
    made[:, 0] = x
    return made


def test_it_replans_on_schedule_for_those_who_are_active() -> None:
    proposer = Straight()
    controller = agent_of(proposer, replan=3).controller()
    assert isinstance(controller, Controller)
    controller.reset([7, 8, 9])
    active = np.array([True, True, True])
    for step in range(8):
        if step == 4:
            active = np.array([True, False, True])
        assert controller.act(states(3, step / 10), active).shape == (3, 2)
    assert [planned.step for planned in controller.plans] == [0, 3, 6]
    assert [planned.episodes.tolist() for planned in controller.plans] == [[0, 1, 2], [0, 1, 2], [0, 2]]
    last = controller.plans[-1]
    assert last.stride == 2
    assert last.points.shape == (2, 4, 2)
    assert last.points[:, 0].tolist() == [[np.float32(0.6), 0.0], [np.float32(0.6), 2.0]]
    np.testing.assert_allclose(last.values, proposer_best(last))
    controller.reset([7])
    assert controller.plans == []
    controller.act(states(1), np.ones(1, bool))
    assert [planned.step for planned in controller.plans] == [0]
    assert proposer.calls[-1]["kept"] is None
    assert proposer.calls[-1]["seeds"].tolist() == proposer.calls[0]["seeds"][:1].tolist()


def proposer_best(planned: Any) -> np.ndarray:
    return planned.points[:, -1, 0]


def test_nobody_active_plans_nothing() -> None:
    proposer = Straight()
    controller = agent_of(proposer).controller()
    controller.reset([0, 1])
    controller.act(states(2), np.zeros(2, bool))
    assert proposer.calls == []


def test_what_is_left_of_the_last_plan_comes_along_from_where_we_are() -> None:
    """Plans go 2 units a point of 2 steps; after 3 steps at x = 3.2 what is left is at 3, 5, 6, 6."""
    for keep in (True, False):
        proposer = Straight()
        controller = agent_of(proposer, replan=3, keep=keep).controller(candidates=3)
        controller.reset([0])
        for x in (0.0, 1.0, 2.0, 3.2):
            controller.act(states(1, x), np.ones(1, bool))
        first, second = proposer.calls
        assert first["kept"] is None
        if keep:
            np.testing.assert_allclose(second["kept"][0, :, 0], [3.2, 5, 6, 6], rtol=1e-6)
        else:
            assert second["kept"] is None


def test_the_goal_of_the_agent_is_where_it_plans_to() -> None:
    proposer = Straight()
    controller = agent_of(proposer, goal=np.array([4.0, 5.0])).controller()
    controller.reset([0, 1])
    controller.act(states(2), np.ones(2, bool))
    assert proposer.calls[0]["goal"].tolist() == [[4, 5], [4, 5]]


def test_an_episode_does_not_depend_on_its_neighbours() -> None:
    """The same code for one episode and many, and the same noise: of its own seed."""
    agent = agent_of(planner(Told(Trig(1.0), [0, 1, 2, 3], width=4), 4, dim=4))
    many, alone = agent.controller(), agent.controller()
    many.reset([5, 6, 7, 8])
    alone.reset([7])
    here = np.random.default_rng(0).normal(size=(4, 4))
    active = np.ones(4, bool)
    for _ in range(7):
        together = many.act(here, active)
        np.testing.assert_allclose(alone.act(here[2:3], active[:1])[0], together[2], atol=2e-5)
        here = here + 0.05 * np.concatenate([together, np.zeros((4, 2))], 1)
        active = np.array([True, False, True, True])


class Notes:
    """A follower that keeps the seeds that it hears."""

    def __init__(self) -> None:
        self.heard: list[torch.Tensor] = []

    def act(self, states: np.ndarray, paths: Paths, seeds: torch.Tensor | None = None) -> np.ndarray:
        assert seeds is not None
        self.heard.append(seeds)
        return np.zeros((len(states), 2))


def test_followers_hear_a_seed_for_each_episode_and_step() -> None:
    proposer, notes = Straight(), Notes()
    controller = replace(agent_of(proposer), follower=notes).controller()
    for seeds in ([3, 4], [4]):
        controller.reset(seeds)
        for _ in range(5):
            controller.act(states(len(seeds)), np.ones(len(seeds), bool))
    two, one = torch.stack(notes.heard[:5]), torch.stack(notes.heard[5:])
    assert two[:, 1].tolist() == one[:, 0].tolist()
    of_plans = torch.cat([call["seeds"].flatten() for call in proposer.calls[:2]])
    everything = torch.cat([two.flatten(), of_plans])
    assert len(everything.unique()) == len(everything)
