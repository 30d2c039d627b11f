"""Who else is planned for changes nothing, to the last bit: calls of one shape, controllers that act together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kedge import Cond, Denoiser, Walk, grids, solvers
from kedge.data import Normaliser
from kedge.envs.task import Sociable
from kedge.errors import InputError
from kedge.nets import MLP
from kedge.paths import Trig
from kedge.plan import Invert
from kedge.policy import ChunkPolicy
from kedge.tree import blocks, in_blocks
from plan.agents import Straight, agent_of, drawn_agent

ONE = np.ones(1, bool)


@given(st.integers(0, 40), st.integers(1, 9))
def test_blocks_hold_every_sample_once_and_are_all_of_one_size(count: int, width: int) -> None:
    found = list(blocks(count, width))
    assert all(len(some) == width for some, _ in found)
    meant = [int(i) for some, number in found for i in some[:number]]
    assert meant == list(range(count))


def test_a_call_in_blocks_sees_one_shape_and_gives_what_the_call_gives() -> None:
    seen: list[tuple[int, ...]] = []

    def call(x: Tensor, y: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return x.sum(1) + y

    x, y = torch.randn(7, 3), torch.randn(7)
    assert torch.equal(in_blocks(call, 3, x, y), x.sum(1) + y)
    assert seen == [(3, 3)] * 3
    assert torch.equal(in_blocks(call, None, x, y), x.sum(1) + y)
    assert in_blocks(call, 3, x[:0], y[:0]).shape == (0,)


class Dynamics:
    """Inverse dynamics that were never learned."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.net = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 2)).requires_grad_(False)

    def act(self, here: Tensor, there: Tensor, offset: int, *, seeds: Any = None) -> Tensor:
        return self.net(torch.cat([here, there], 1)).tanh()


class Heard(nn.Module):
    """A network of chunks that hears what is seen."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.net = MLP((4, 2), width=32)
            self.told = nn.Linear(4, 8)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        assert cond is not None
        return self.net(x, t) + self.told(cond.fields["observation"]).unflatten(1, (4, 2))


def policy() -> ChunkPolicy:
    walk = Walk(Denoiser(Heard(), Trig(1.0), predict="clean"), solvers.DDPM(), grids.LogSNR(4))
    return ChunkPolicy(
        walk, (4, 2), Normaliser(torch.zeros(4), torch.ones(4)), Normaliser(torch.zeros(2), torch.ones(2))
    )


AGENTS = {
    "chase": lambda: drawn_agent().steady(8),
    "inverse dynamics": lambda: drawn_agent(follower=Invert(Dynamics(), 3)).steady(8),
    "chunks": lambda: policy().steady(8),
}


def gone(controller: Any, seen: np.ndarray) -> np.ndarray:
    """What one controller does, `[episodes, steps, act]`, where each of its episodes sees `seen [n, steps, s]`."""
    acting = np.ones(len(seen), bool)
    return np.stack([controller.act(seen[:, step], acting) for step in range(seen.shape[1])], 1)


def alone(agent: Any, seeds: list[int], seen: np.ndarray) -> np.ndarray:
    found = []
    for seed, one in zip(seeds, seen, strict=True):
        controller = agent.controller()
        controller.reset([seed])
        found.append(gone(controller, one[None])[0])
    return np.stack(found)


def looks(episodes: int, steps: int) -> np.ndarray:
    """Observations that wander."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(episodes, 1, 4)) + 0.1 * rng.normal(size=(episodes, steps, 4)).cumsum(1)


@pytest.mark.parametrize("name", AGENTS)
def test_an_episode_among_others_is_the_same_to_the_last_bit(name: str) -> None:
    agent, seeds, seen = AGENTS[name](), [5, 6, 7, 8, 9], looks(5, 9)
    many = agent.controller()
    many.reset(seeds)
    together = gone(many, seen)
    assert np.ptp(together, axis=0).max() > 0.01
    np.testing.assert_array_equal(together, alone(agent, seeds, seen))


@pytest.mark.parametrize("name", AGENTS)
def test_controllers_that_act_together_at_steps_of_their_own_do_what_each_does_alone(name: str) -> None:
    """They begin so that some plan at once, for the second time and for the third."""
    agent, seeds, begins, seen = AGENTS[name](), [5, 6, 7], [0, 4, 1], looks(3, 9)
    controllers = [agent.controller() for _ in seeds]
    for controller, seed in zip(controllers, seeds, strict=True):
        assert isinstance(controller, Sociable)
        controller.reset([seed])
    given: list[list[np.ndarray]] = [[] for _ in seeds]
    for turn in range(13):
        who = [i for i, begin in enumerate(begins) if begin <= turn < begin + 9]
        made = type(controllers[0]).together(
            [controllers[i] for i in who], [seen[i, len(given[i])][None] for i in who], [ONE] * len(who)
        )
        for i, action in zip(who, made, strict=True):
            given[i].append(action[0])
    np.testing.assert_array_equal(np.array(given), alone(agent, seeds, seen))


def test_controllers_that_plan_share_a_call_and_those_that_follow_ask_for_none() -> None:
    proposer = Straight()
    agent = agent_of(proposer, replan=3)
    first, second = agent.controller(), agent.controller()
    first.reset([1])
    second.reset([2])
    here = np.zeros((1, 4))
    assert first.due
    first.together([first, second], [here, here + 1], [ONE, ONE])
    assert [len(call["states"]) for call in proposer.calls] == [2]
    assert not first.due
    first.act(here, ONE)
    first.act(here, ONE)
    assert (first.due, second.due) == (True, False)
    first.together([first, second], [here, here + 1], [ONE, ONE])
    assert [len(call["states"]) for call in proposer.calls] == [2, 1]
    assert [[planned.step for planned in one.plans] for one in (first, second)] == [[0, 3], [0]]


def test_a_width_is_for_agents_that_denoise_and_at_least_one() -> None:
    with pytest.raises(InputError, match="does not denoise"):
        agent_of().steady(8)
    with pytest.raises(InputError, match="at least 1 sample"):
        drawn_agent().steady(0)
