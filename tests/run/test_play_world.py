"""One tab's world: what may be put where, what stops the ball, what plans are made for; and what a page may say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from drilling.hostile import SENSELESS
from kedge.errors import InputError
from kedge.guide import KeepOut
from kedge.plan.support import Support
from kedge.recipes.grid import planner_of
from kedge.run.play.commands import changes_plans, obey, read
from kedge.run.play.planning import (
    Job,
    SupersededError,
    frame_of,
    guides_of,
    levels_of,
    make,
    objective_of,
    steered_by,
    way_of,
)
from kedge.run.play.scene import MOST, RANGES, Mark, Scene, Settings
from kedge.run.play.world import World, settings_of
from kedge.steer import Along, ComeTo, OutputPerturbation, StayOff, StochasticSampling
from kedge.walk.solvers import DPMSolver, DPMSolverPP, UniPC
from run.playing import ROOM, ROOMS, agent, plan_of

WALL = {"id": "w", "kind": "wall", "box": [1.9, 0.4, 2.1, 4.0]}


def world(**more: Any) -> World:
    made = World(ROOM, agent(**more))
    made.put((1.0, 3.0))
    return made


def job(of: World, count: int = 6, draft: bool = False, **more: Any) -> Job:
    given: dict[str, Any] = {"kept": None, "n": 7, "round": 0} | more
    return Job(of.ahead, of.settings, of.ball, count=count, draft=draft, **given)


def draw(here: World, name: str, kind: str, **where: Any) -> None:
    obey(here, {"do": "draw", "mark": {"id": name, "kind": kind, **where}})


def test_a_drawn_wall_stops_the_ball_that_would_have_gone_through() -> None:
    """Straight down the room, 3 s long, at a plan that heeds no wall."""
    ends = []
    for walls in ([], [WALL]):
        here = world()
        for wall in walls:
            here.draw(Mark.of(wall))
        here.follow(make(here.agent, replace(job(here, 1), scene=Scene(here.scene.goal))).plan)
        here.advance(300)
        ends.append(here.ball[0])
    assert ends[0] > 2.6
    assert ends[1] < 1.9 - 0.09, "its radius is 0.1"
    here.erase("w")
    here.advance(300)
    assert here.ball[0] > 2.6, "an erased wall is gone"


def test_a_wall_of_the_maze_that_was_erased_lets_the_ball_pass_until_it_is_back() -> None:
    """Straight from room to room, 2.5 s long; the wall between them reaches from 2.3 to 3.3."""
    here = World(ROOMS, agent())
    ends = []
    for gap in (False, True, False):
        here.put((1.0, 1.0))
        here.aim((1.0, 5.0))
        if gap:
            draw(here, "g", "gap", box=[0.4, 2.5, 1.2, 3.1])
            assert here.scene.boxes("gap") == [pytest.approx((0.3, 2.3, 1.3, 3.3))], "all of a cell, and one alone"
        here.follow(make(here.agent, job(here, 1)).plan)
        here.advance(250)
        ends.append(here.ball[1])
        if gap:
            here.put((1.0, 2.8))
            with pytest.raises(InputError, match="cannot come back onto the ball"):
                here.clear()
            here.put((1.0, 5.0))
            here.aim((1.0, 2.8))
            with pytest.raises(InputError, match="the goal cannot lie in a wall"):
                here.erase("g")
            here.aim((1.0, 5.0))
            here.erase("g")
    assert ends[0] < 2.3 - 0.09
    assert ends[1] > 4.6
    assert ends[2] < 2.3 - 0.09


def test_the_judge_knows_of_a_wall_that_is_gone() -> None:
    """What lies in the gap is no slip of the model; beside it everything is as before."""
    visited = torch.zeros(60, 60, dtype=torch.bool)
    visited[10:20], visited[30:40] = True, True  # two rooms, of x and y from 0 to 6 in tenths
    support = Support(visited, torch.zeros(2), 0.1)
    here = World(ROOMS, replace(agent(), judge=replace(agent().judge, support=support)))
    gapped = replace(here.scene, marks={"g": Mark("g", "gap", (1.9, 2.3, 3.1, 3.3))})
    line = torch.stack([torch.tensor([[1.5, y, 0, 0], [3.5, y, 0, 0]]) for y in (2.8, 4.8)])[None]
    for scene, least in ((here.scene, 0.0), (gapped, 1.0)):
        inside = steered_by(here.agent, replace(job(here), scene=scene)).judge.inside(line)[0, :, 0]
        assert inside[0] == pytest.approx(max(least, 0.5), abs=0.2 * (1 - least))
        assert inside[1] < 0.7
    assert not support.visited[25, 28], "and the run's own is as it was"
    beyond = support.opened([(-3.0, 1.0, -2.0, 2.0), (7.0, 1.0, 8.0, 2.0)])
    assert beyond.visited.equal(visited), "off the grid is nowhere"


def test_plans_cross_no_wall_where_one_of_the_candidates_does_not() -> None:
    here = world()
    straight = make(here.agent, job(here)).plan
    assert straight.best[0] == 0
    draw(here, "w", "wall", box=[1.9, 0.4, 2.1, 3.3])
    plan = make(here.agent, job(here)).plan
    assert plan.crossings[0, 0] > 0
    assert plan.crossings[0, plan.best[0]] == 0
    assert plan.best[0] == int(np.flatnonzero(plan.crossings[0] == 0)[0]), "and it is the soonest of those"
    draw(here, "w", "zone", box=[1.9, 0.4, 2.1, 3.3])
    zoned = make(here.agent, job(here)).plan
    assert 0 < zoned.best[0] <= plan.best[0], "a wall has the ball's radius around it, a zone has not"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"do": "draw", "mark": {"id": "g", "kind": "gap", "box": [0, 2, 0.2, 2.2]}}, "its border stays closed"),
        ({"do": "draw", "mark": {"id": "g", "kind": "gap", "box": [2, 2, 2.2, 2.2]}}, "there is no wall to open"),
        ({"do": "goal", "at": [0.0, 3.0]}, "the goal cannot lie in a wall"),
        ({"do": "goal", "at": [0.35, 3.0]}, "the goal cannot lie in a wall"),
        ({"do": "goal", "at": [30, 3]}, "the goal cannot lie outside the maze"),
        ({"do": "goal", "at": [2.0, 2.0]}, "the goal cannot lie in a keep-out zone"),
        ({"do": "ball", "at": [0.0, 3.0]}, "the ball does not fit there"),
        ({"do": "ball", "at": [-9.0, 3.0]}, "the ball does not fit there"),
        ({"do": "draw", "mark": {"id": "w", "kind": "wall", "box": [0.9, 2.9, 1.2, 3.2]}}, "onto the ball"),
        ({"do": "draw", "mark": {"id": "w", "kind": "wall", "box": [2.9, 2.9, 3.2, 3.2]}}, "the goal cannot lie in a"),
        ({"do": "draw", "mark": {"id": "z", "kind": "zone", "box": [2.9, 2.9, 3.2, 3.2]}}, "in a keep-out zone"),
    ],
)
def test_what_cannot_be_there_is_refused_and_nothing_changes(words: dict[str, Any], says: str) -> None:
    here = world()
    draw(here, "z1", "zone", box=[1.8, 1.8, 2.2, 2.2])
    scene, ball = here.scene, here.ball
    with pytest.raises(InputError, match=says):
        obey(here, words)
    assert here.scene == scene
    np.testing.assert_array_equal(here.ball, ball)


def test_a_run_that_was_never_shown_goals_says_so() -> None:
    here = world()
    here.agent.proposer.heeds = False  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="never shown goals"):
        here.aim((1.0, 1.0))


@pytest.mark.parametrize(("message", "says"), SENSELESS)
def test_a_bad_message_is_refused_with_one_reason(message: str | bytes, says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        obey(world(), read(message))
    assert "\n" not in str(refused.value)


def test_marks_are_counted_and_boxes_are_thick_enough_to_stop_a_ball() -> None:
    here = world()
    for i in range(MOST):
        draw(here, f"z{i}", "zone", box=[2, 0.5, 2, 0.5])
    with pytest.raises(InputError, match=f"{MOST} marks already"):
        draw(here, "one more", "zone", box=[2, 0.5, 2, 0.5])
    draw(here, "z0", "zone", box=[2.5, 1, 2, 0.5])  # another in its place
    assert here.scene.marks["z0"].box == (2.0, 0.5, 2.5, 1.0)
    assert here.scene.marks["z1"].box == pytest.approx((1.9, 0.4, 2.1, 0.6))
    obey(here, {"do": "clear"})
    assert here.scene.marks == {}


def test_a_kept_scene_comes_back_as_far_as_it_fits() -> None:
    here = world()
    draw(here, "old", "zone", box=[2, 0.5, 2, 0.5])
    marks = [
        WALL,
        {"id": "bad", "kind": "wall", "box": [1]},
        {"id": "p", "kind": "come", "points": [[2.5, 5]]},
        {"id": "v", "kind": "wall", "box": [2.9, 1.0, 3.1, 1.2]},  # in the goal's way once the goal is there
    ]
    settings = {"steps": 9, "solver": "ddim", "speed": -1}
    said = obey(here, {"do": "restore", "goal": [3.0, 1.1], "ball": [1.0, 5.0], "marks": marks, "settings": settings})
    assert [line.split(" ")[0] for line in said] == ["speed", "the", "the"]
    assert set(here.scene.marks) == {"w", "p"}
    assert here.scene.goal == (3.0, 1.1)
    assert (here.settings.steps, here.settings.solver) == (9, "ddim")
    np.testing.assert_allclose(here.ball, [1, 5, 0, 0])
    assert obey(here, {"do": "restore", "marks": None, "settings": 3}) == []
    there, gap = World(ROOMS, agent()), {"id": "g", "kind": "gap", "box": [0.3, 2.3, 1.3, 3.3]}
    assert obey(there, {"do": "restore", "goal": [1.0, 2.8], "ball": [1.0, 2.5], "marks": [gap]}) == []
    assert there.scene.goal == (1.0, 2.8)


def test_settings_reach_from_their_least_to_their_most() -> None:
    for name, (low, high, whole) in RANGES.items():
        for value in (low, high):
            assert getattr(Settings().changed(name, value), name) == value
        with pytest.raises(InputError, match=name):
            Settings().changed(name, high + 1)
        assert isinstance(getattr(Settings().changed(name, high), name), int if whole else float)


@pytest.mark.parametrize(("name", "value"), [("x" * 9000, 1), ("steps", "x" * 9000), ("paused", "x" * 9000)])
def test_a_refusal_does_not_repeat_all_that_it_was_sent(name: str, value: Any) -> None:
    with pytest.raises(InputError) as refused:
        Settings().changed(name, value)
    assert len(str(refused.value)) < 300


def test_what_is_drawn_becomes_guides_and_objectives() -> None:
    here = world()
    draw(here, "w", "wall", box=[1.9, 0.4, 2.1, 2.0])
    draw(here, "z", "zone", box=[1.0, 4.0, 1.2, 4.5])
    assert objective_of(here.ahead) is None
    guides = guides_of(here.ahead, 0.5)
    assert [(g.margin, g.strength) for g in guides if isinstance(g, KeepOut)] == [
        (pytest.approx(0.15), 0.5),
        (0.05, 0.5),
    ]
    assert guides_of(here.ahead, 0.0) == []
    assert [g.alone for g in (*guides, *guides_of(here.ahead, 0.5, draft=True))] == [False] * 2 + [True] * 2  # pyright: ignore
    draw(here, "c", "come", points=[[1.0, 5.0]])
    draw(here, "y", "way", points=[[1, 1], [1, 2]])
    draw(here, "k", "keep", points=[[3, 5]])
    parts = [type(part) for _, part in objective_of(here.ahead).parts]  # pyright: ignore
    assert parts == [Along, ComeTo, StayOff]
    ways = [way_of(here.agent, here.ahead, replace(Settings(), way=name), here.ball) for name in ("push", "rank")]
    assert isinstance(ways[0], OutputPerturbation)
    assert ways[0].push == pytest.approx((0.0, 0.3)), "towards (1, 5) from (1, 3)"


def test_the_weight_of_a_way_of_steering_follows_the_strength(half: World) -> None:
    found = way_of(half.agent, half.ahead, replace(Settings(), strength=0.5), half.ball)
    assert isinstance(found, StochasticSampling)
    assert found.weight == 0.5 * StochasticSampling.weight


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With a planner that denoises."""
    import kedge
    from run.playing import trained

    here = World(ROOM, kedge.load(trained(tmp_path_factory.mktemp("run"))))
    here.put((1.0, 3.0))
    draw(here, "c", "come", points=[[1.0, 5.0]])
    return here


def test_a_point_that_the_ball_has_come_to_is_no_longer_planned_for() -> None:
    here = world()
    draw(here, "c", "come", points=[[2.0, 3.0]])
    assert "c" in here.ahead.marks
    here.follow(make(here.agent, job(here, 1)).plan)
    here.advance(300)
    assert here.visited == {"c"}
    assert "c" not in here.ahead.marks
    assert "c" in here.scene.marks
    draw(here, "c", "come", points=[[1.0, 1.0]])
    assert "c" in here.ahead.marks, "moved, it is to be come to again"
    here.again()
    assert here.visited == set()


def test_a_superseded_plan_asks_the_network_no_more(half: World) -> None:
    asked = []

    def gone() -> bool:
        asked.append(1)
        return len(asked) > 1

    with pytest.raises(SupersededError):
        make(half.agent, job(half), gone)
    assert len(asked) == 2, "it looks before every step"
    make(half.agent, job(half))


def test_a_plan_on_the_wire_is_what_was_planned_to_a_millimetre(half: World) -> None:
    first = make(half.agent, job(half, 5))
    half.follow(first.plan)
    made = make(half.agent, job(half, 5, kept=half.rest(), round=1))
    sent = plan_of(frame_of(made))
    assert (sent["n"], sent["round"], sent["best"], sent["kept"]) == (7, 1, int(made.plan.best[0]), True)
    assert sent["shape"] == [3, 6, 8, 2], "two levels and the plan; five candidates and what is left of the last plan"
    assert sent["scales"] == [round(s, 6) for s in (half.agent.proposer.grid.scale_max, 0.2)] + [0.0]  # pyright: ignore
    np.testing.assert_allclose(sent["pictures"][-1], made.plan.states[0, :, :, :2], atol=5.1e-4)
    fresh = made.plan.frames[-1][1][0]
    np.testing.assert_allclose(sent["pictures"][1][2 : 2 + len(fresh)], fresh[..., :2], atol=5.1e-4)
    np.testing.assert_allclose(sent["pictures"][1][[0, 1, 5]], sent["pictures"][-1][[0, 1, 5]])
    assert sent["off"] is not None


@pytest.mark.parametrize(("own", "shown"), [(DPMSolverPP(3), "3m"), (UniPC(2), "unipc"), (DPMSolver(2), "2m")])
def test_the_solver_of_the_run_is_shown_where_it_has_a_name(half: World, own: Any, shown: str) -> None:
    other = replace(half.agent, proposer=replace(planner_of(half.agent), solver=own))
    assert settings_of(other).solver == shown


def test_the_settings_are_those_of_the_walk(half: World) -> None:
    changed = replace(half.settings, steps=4, solver="heun", way="rank")
    made = make(half.agent, replace(job(half), settings=changed))
    assert len(made.plan.frames) == 4
    assert len(levels_of(half.agent, 4)) == 5
    cold = [make(half.agent, replace(job(half), settings=replace(changed, temperature=t))).plan for t in (0.0, 1.0)]
    spread = [float(np.ptp(plan.states[0, :, 4, :2], axis=0).max()) for plan in cold]
    assert spread[0] < 1e-4 < spread[1], "at temperature 0 all candidates are one"


def test_the_same_scene_is_planned_for_with_the_same_noise_and_drafts_are_its_beginning(half: World) -> None:
    whole, draft = (make(half.agent, job(half, n, draft=n < 6)).plan.states for n in (6, 2))
    torch.testing.assert_close(torch.from_numpy(whole[:, :2]), torch.from_numpy(draft), atol=1e-3, rtol=0)


def test_a_draft_past_a_wall_asks_the_network_forwards_alone(half: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way back, by which a full plan keeps together what hangs together, is half of the time."""
    scene = replace(half.ahead, marks={"z": Mark.of({"id": "z", "kind": "zone", "box": [0.5, 0.5, 3.5, 5.5]})})
    back: list[bool] = []
    real = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: back.append(draft) or real(*a, **k))
    for draft in (True, False):
        make(half.agent, replace(job(half, draft=draft), scene=scene))
    assert back
    assert not any(back)


def test_what_changes_no_plan_asks_for_none() -> None:
    words = [
        {"do": "set", "name": "speed"},
        {"do": "set", "name": "paused"},
        {"do": "drop"},
        {"do": "set", "name": "steps"},
    ]
    assert [changes_plans(w) for w in words] == [False, False, False, True]
    assert json.loads(json.dumps(Mark.of(WALL).words())) == WALL
