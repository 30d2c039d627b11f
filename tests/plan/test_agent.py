"""What a person gets from `agent.plan`, and what is said where it cannot be had."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot

from kedge.errors import InputError
from kedge.guide import keep_out
from kedge.paths import Trig
from kedge.plan import Plan, Planner
from kedge.plan.proposer import candidate_seeds
from plan.agents import Straight, agent_of
from plan.test_planner import FIRST, Told, planner
from small_maze import maze

mpl.use("Agg")
HERE = np.array([1.0, 2.0, 0.0, 0.0])


def test_a_plan_holds_all_candidates_and_the_best_of_them() -> None:
    plan = agent_of().plan(np.stack([HERE, HERE + 1]), candidates=5)
    assert plan.states.shape == (2, 5, 4, 4)
    assert plan.best.tolist() == [4, 4]
    assert plan.trajectory[:, :, 0].tolist() == [[1, 5, 9, 13], [2, 6, 10, 14]]
    assert plan.value.tolist() == [13, 14]
    assert plan.feasible.tolist() == [[1.0] * 5] * 2
    assert plan.largest_step()[0].tolist() == [0, 1, 2, 3, 4]
    assert plan.stride == 2
    assert agent_of().plan(HERE).states.shape == (1, 3, 4, 4)


def test_what_is_kept_is_the_last_candidate() -> None:
    proposer = Straight()
    agent = agent_of(proposer)
    kept = np.full((1, 4, 4), 50.0)
    plan = agent.consider(HERE[None], candidate_seeds(np.zeros(1, np.int64), 0, 2), kept=kept)
    assert plan.best.tolist() == [2]
    assert plan.states[0, -1].tolist() == kept[0].tolist()
    assert proposer.calls[0]["kept"].tolist() == kept.tolist()


def test_the_seed_decides_alone() -> None:
    proposer = Straight()
    agent = agent_of(proposer)
    agent.plan(np.stack([HERE, HERE + 1]), seed=3)
    agent.plan(HERE, seed=3)
    agent.plan(HERE, seed=4)
    two, one, other = (call["seeds"] for call in proposer.calls)
    assert two[0].tolist() == two[1].tolist() == one[0].tolist()
    assert set(one[0].tolist()).isdisjoint(other[0].tolist())


def exact(**more: Any) -> Any:
    return agent_of(planner(Told(Trig(1.0), FIRST), 3, **more), name="mine")


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda a: a.plan(HERE, candidates=0), "at least 1 candidate, got candidates=0"),
        (lambda a: a.plan(HERE[:3]), r"observations of 4 numbers, got \[3\]: was it trained for another environment"),
        (lambda a: a.plan(HERE * np.nan), "a nan or an infinity"),
        (lambda a: a.plan(HERE, goal=[1.0, 2.0]), r"agent cannot be told a goal: .* train it with goals=0\.5"),
        (lambda a: a.with_guide(keep_out((0, 0, 1, 1))), "nothing to guide"),
    ],
)
def test_one_line_says_what_cannot_be_had(ask, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        ask(agent_of())
    assert "\n" not in str(caught.value)


class Hears(Straight):
    heeds = True


@pytest.mark.parametrize(
    ("goal", "says"),
    [
        ([1.0], r"a goal is 2 to 4 numbers, .* got shape \[1\]"),
        ([1.0] * 5, r"got shape \[5\]"),
        (3.0, r"got shape \[\]"),
        ([[1.0, 2.0]] * 3, r"one for each of 2 observations; got shape \[3, 2\]"),
        ([1.0, np.inf], "a goal must be finite"),
    ],
)
def test_goals_that_do_not_fit(goal, says: str) -> None:
    with pytest.raises(InputError, match=says):
        agent_of(Hears()).plan(np.stack([HERE, HERE]), goal=goal)


def test_goals_come_to_the_planner_one_for_each() -> None:
    proposer = Hears()
    agent = agent_of(proposer)
    agent.plan(np.stack([HERE, HERE]), goal=[5.0, 6.0])
    agent.plan(np.stack([HERE, HERE]), goal=np.array([[5.0, 6.0], [7.0, 8.0]]))
    agent.plan(HERE)
    assert proposer.calls[0]["goal"].tolist() == [[5, 6], [5, 6]]
    assert proposer.calls[1]["goal"].tolist() == [[5, 6], [7, 8]]
    assert proposer.calls[2]["goal"] is None


def test_a_planner_that_was_shown_no_end_says_so() -> None:
    assert exact().proposer.heeds
    with pytest.raises(InputError, match="mine cannot be told a goal"):
        exact(heeds=False).plan(HERE, goal=[1.0, 2.0])


def test_guides_are_added_and_the_agent_is_left_alone() -> None:
    agent = exact()
    first, second = keep_out((0, 0, 1, 1)), keep_out((2, 2, 3, 3))
    guided = agent.with_guide(first).with_guide(second)
    assert isinstance(guided.proposer, Planner)
    assert list(guided.proposer.guides) == [first, second]
    assert list(agent.proposer.guides) == []
    assert guided.judge is agent.judge


def test_a_plan_is_drawn_with_and_without_the_maze() -> None:
    plan = agent_of().plan(HERE)
    assert isinstance(plan, Plan)
    for ax in (plan.plot(), plan.plot(maze(), index=0)):
        chosen = [line for line in ax.get_lines() if len(line.get_xdata()) == 4]
        assert np.allclose(chosen[0].get_ydata(), plan.trajectory[0, :, 0])
        pyplot.close(ax.figure)
