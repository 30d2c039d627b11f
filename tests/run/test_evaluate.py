"""The evaluation loop on a line whose scores are known, and in the real maze."""

from __future__ import annotations

import csv
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from kedge.envs import Maze2D
from kedge.envs.task import Controller, Simulator, Task
from kedge.errors import InputError
from kedge.run.evaluate import evaluate, hold_position
from kedge.run.feasibility import Feasibility
from kedge.run.scores import PLANS_KEPT, Scores
from run.line import MOVE, Fence, Line, Stayer, Trained, Walker

COLUMNS = ("seeds", "solved_at", "latched", "raw", "latched_score", "raw_score")


def test_the_stand_ins_are_what_they_stand_for() -> None:
    assert isinstance(Walker(), Controller)
    assert isinstance(Line(), Task)
    assert isinstance(Line().simulator(1), Simulator)


def test_scores_are_those_worked_out_by_hand() -> None:
    """From k moves below 0, the (8 + k)-th step, step 7 + k from 0, is the first that is paid; so are all after it."""
    scores = evaluate(Walker(), Line(), 7, first_seed=100)
    assert scores.seeds.tolist() == list(range(100, 107))
    assert scores.solved_at.tolist() == [7, 8, 9, 10, 11, 7, 8]
    assert scores.latched.tolist() == [13, 12, 11, 10, 9, 13, 12]
    assert scores.raw.tolist() == [13, 12, 11, 10, 9, 13, 12]  # held where it succeeded
    assert scores.latched_score.tolist() == [65, 60, 55, 50, 45, 65, 60]
    assert scores.raw_score.tolist() == scores.latched_score.tolist()
    assert scores.success.all()


def test_latched_is_raw_for_one_that_never_leaves() -> None:
    """Also without the evaluation's help: both count the step of first success itself."""
    scores = evaluate(Stayer(), Line(), 5, hold=None)
    assert scores.latched.tolist() == scores.raw.tolist() == [13, 12, 11, 10, 9]


def test_one_that_passes_by_is_paid_once_and_counts_as_solved() -> None:
    scores = evaluate(Walker(), Line(), 5, hold=None)
    assert scores.raw.tolist() == [1] * 5
    assert scores.latched.tolist() == [13, 12, 11, 10, 9]


def test_one_that_starts_at_the_goal_scores_the_whole_horizon() -> None:
    class AtGoal(Line):
        def simulator(self, count: int) -> Simulator:
            points = super().simulator(count)
            start = points.reset
            points.reset = lambda seeds: np.add(start(seeds), [1, 0, 0, 0], out=points.states)  # pyright: ignore[reportAttributeAccessIssue]
            return points

    scores = evaluate(Walker(pace=0.0), AtGoal(), 1, first_seed=0)
    assert scores.solved_at.tolist() == [0]
    assert scores.latched.tolist() == scores.raw.tolist() == [20]


def test_one_that_never_arrives_scores_nothing() -> None:
    scores = evaluate(Walker(pace=-1.0), Line(), 3)
    assert scores.solved_at.tolist() == [-1, -1, -1]
    assert scores.latched.tolist() == scores.raw.tolist() == [0, 0, 0]
    assert scores.summary()["success"] == 0
    assert scores.summary()["steps_to_success"] is None


def test_success_on_the_last_step_counts_one() -> None:
    scores = evaluate(Walker(), Line(horizon=8), 2, first_seed=0)
    assert scores.solved_at.tolist() == [7, -1]
    assert scores.latched.tolist() == scores.raw.tolist() == [1, 0]


def test_a_solved_episode_is_no_longer_active_and_its_actions_are_not_used() -> None:
    """The walker returns nan for what is not active: had one been used, no position would be finite."""
    walker = Walker()
    scores = evaluate(walker, Line(), 5, first_seed=0)
    assert [active.sum() for active in walker.asked] == [5] * 8 + [4, 3, 2, 1]  # and is not asked when all are solved
    assert scores.planning.act_calls == 12
    assert scores.positions is not None
    assert np.array_equal(scores.positions[:, -1], [[1, 0]] * 5)


def test_the_hold_is_given_the_state_at_first_success() -> None:
    seen = []

    def hold(solved: np.ndarray, observations: np.ndarray) -> np.ndarray:
        seen.append(solved[0].copy())
        return np.tile([1.0, 0.0], (len(solved), 1))  # pushed on, so that now and then differ

    scores = evaluate(Walker(), Line(), 1, first_seed=0, hold=hold)
    assert len(seen) == 12
    assert all(state.tolist() == [1, 0, 0, 0] for state in seen)
    assert scores.raw.tolist() == [1]


def test_hold_position_is_the_formula() -> None:
    solved = np.array([[1.0, 2.0, 9.0, 9.0]] * 3)
    now = np.array([[1.0, 2.0, 0.3, -0.4], [0.95, 2.01, 0.1, 0.2], [-1.0, 5.0, 0.0, 0.0]])
    assert np.allclose(hold_position(solved, now), [[-0.3, 0.4], [0.4, -0.3], [1, -1]])


def test_stopping_when_all_are_solved_keeps_the_latched_score_and_says_that_the_raw_is_not_known() -> None:
    walker = Walker()
    scores, whole = evaluate(walker, Line(), 5, stop_when_solved=True), evaluate(Walker(), Line(), 5)
    assert np.array_equal(scores.latched, whole.latched)
    assert np.isnan(scores.raw).all()
    assert scores.summary()["raw"]["score"] is None
    assert "not available" in scores.summary()["raw"]["meaning"]
    assert any("not available" in line for line in scores.lines())
    slow = evaluate(Walker(pace=-1.0), Line(), 5, stop_when_solved=True)
    assert slow.raw.tolist() == [0] * 5  # ran to the end


def test_stopping_stops() -> None:
    ticks: list[tuple[int, int]] = []
    evaluate(Walker(), Line(), 5, stop_when_solved=True, progress=lambda *tick: ticks.append(tick))
    assert ticks[-1] == (12, 20)


@pytest.mark.parametrize("batch", [1, 3, 4, 100])
def test_episodes_do_not_know_their_batch(batch: int) -> None:
    task = Line(layout=Fence(0.4, 0.6))
    whole = evaluate(Walker(every=3), task, 11)
    parts = evaluate(Walker(every=3), task, 11, batch=batch)
    for column in COLUMNS:
        assert np.array_equal(getattr(whole, column), getattr(parts, column))
    assert np.array_equal(whole.positions, parts.positions, equal_nan=True)  # pyright: ignore[reportArgumentType]
    assert whole.feasibility.summary() == parts.feasibility.summary()
    for episode in range(11):
        for a, b in zip(whole.plans_of(episode), parts.plans_of(episode), strict=True):
            assert (a.step, a.stride) == (b.step, b.stride)
            assert np.array_equal(a.points, b.points)
            assert np.array_equal(a.values, b.values)


def test_batches_fit_and_progress_ends_at_its_end() -> None:
    sizes: list[int] = []

    class Counted(Line):
        def simulator(self, count: int) -> Simulator:
            sizes.append(count)
            return super().simulator(count)

    ticks: list[tuple[int, int]] = []
    evaluate(Walker(), Counted(), 10, batch=4, progress=lambda *tick: ticks.append(tick))
    assert sizes == [4, 3, 3]
    assert ticks == [(i, 60) for i in range(1, 61)]


def test_an_agent_gives_its_controller_and_its_label() -> None:
    assert evaluate(Trained(), Line(), 2).label == "a trained walker"
    assert evaluate(Walker(), Line(), 2).label == "Walker"
    assert evaluate(Trained(), Line(), 2, label="mine").label == "mine"


def test_planning_counts_plans_and_the_calls_that_made_them() -> None:
    """Plans at steps 0, 4 and 8, when 5, 5 and 4 episodes are active."""
    planning = evaluate(Walker(every=4), Line(), 5, first_seed=0).planning
    assert (planning.plans, planning.calls, planning.act_calls) == (14, 3, 12)
    assert 0 < planning.seconds < planning.act_seconds
    found = planning.json()
    assert found["seconds_per_plan"] == pytest.approx(planning.seconds / 14)
    assert found["plans_per_second"] == pytest.approx(14 / planning.seconds)
    assert evaluate(Walker(), Line(), 5).planning.json()["plans_per_second"] is None


def test_plans_are_measured_while_they_are_in_force() -> None:
    """Plans every 4 steps, .01 ahead, 2 steps and 2 moves between points; the point starts at 0 and is solved at 1."""
    task = Line(layout=Fence(0.6, 0.7))
    found = evaluate(Walker(every=4, ahead=0.01), task, 1, first_seed=0, reach=0.2).feasibility
    assert found.plans.tolist() == [2]  # solved at step 7: none is made at 8
    assert found.tracked_steps.tolist() == [8]
    assert np.allclose([found.start_gap, found.start_gap_max, found.tracking], 0.01)
    assert np.allclose(found.off_path, 0.0)  # late, but on its way
    assert np.allclose(found.largest_step, 2 * MOVE)
    assert found.plans_over_reach.tolist() == [0]
    assert found.prefixes_crossing is not None
    assert found.plans_crossing is not None
    assert found.prefixes_crossing.tolist() == [1]  # the second, from .51 to .76; the first was left at .51
    assert found.plans_crossing.tolist() == [2]  # it ends at .76
    assert evaluate(Walker(every=4), task, 1, first_seed=0, reach=0.12).feasibility.plans_over_reach.tolist() == [2]


def test_without_a_map_crossings_are_not_measured() -> None:
    scores = evaluate(Walker(every=4), Line(), 2)
    assert scores.feasibility.summary()["whole_plans_crossing"] is None
    assert any("not measured" in line for line in scores.lines())
    assert not any("cross" in line for line in evaluate(Walker(), Line(), 2).lines())


def test_what_is_shown_is_the_worst_the_middle_and_the_best() -> None:
    scores = evaluate(Walker(), Line(), 30, first_seed=0)
    shown = scores.shown
    assert [len(group) for group in shown.values()] == [5, 5, 5]
    assert len({episode for group in shown.values() for episode in group}) == 15
    assert {e % 5 for e in shown["worst"]} == {4}
    assert {e % 5 for e in shown["typical"]} == {2}
    assert {e % 5 for e in shown["best"]} == {0}
    assert evaluate(Walker(), Line(), 2, first_seed=0).shown == {"worst": [1, 0], "typical": [], "best": []}


def stored(folder: Path) -> Scores:
    task = Line(horizon=100, layout=Fence(0.4, 0.6))
    return evaluate(Walker(every=3, pace=0.25), task, 20, first_seed=3, out=folder, label="kept")


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    made = stored(tmp_path / "new" / "folder")
    read = Scores.load(tmp_path / "new" / "folder")
    assert (read.task, read.label, read.horizon) == ("line", "kept", 100)
    for column in COLUMNS:
        assert np.array_equal(getattr(made, column), getattr(read, column))
    for name in Feasibility.__dataclass_fields__:
        assert np.array_equal(getattr(made.feasibility, name), getattr(read.feasibility, name))
    assert made.planning == read.planning
    assert made.summary() == read.summary()
    assert np.allclose(made.positions, read.positions, atol=0.5 / 1024, equal_nan=True)  # pyright: ignore[reportArgumentType]
    shown = set(itertools.chain(*made.shown.values()))
    for episode in shown:
        for a, b in zip(made.plans_of(episode), read.plans_of(episode), strict=True):
            assert (a.step, a.stride) == (b.step, b.stride)
            assert np.allclose(a.points, b.points, atol=1e-6)
            assert np.allclose(a.values, b.values, atol=1e-6)
    assert {int(plan.episodes[0]) for plan in read.plans} == shown


def test_unsolved_and_unmeasured_are_empty_cells_that_come_back(tmp_path: Path) -> None:
    made = evaluate(Walker(), Line(horizon=9), 5, first_seed=0, out=tmp_path, stop_when_solved=True)
    rows = list(csv.DictReader((tmp_path / "episodes.csv").read_text().splitlines()))
    assert [row["success"] for row in rows] == ["1", "1", "0", "0", "0"]
    assert [row["solved_at"] for row in rows] == ["7", "8", "", "", ""]
    assert rows[0]["start_gap"] == ""
    assert "plans_crossing" not in rows[0]
    read = Scores.load(tmp_path)
    assert np.array_equal(read.solved_at, made.solved_at)
    assert read.feasibility.prefixes_crossing is None
    assert np.isnan(read.feasibility.start_gap).all()


def test_the_summary_is_plain_json_and_names_both_returns(tmp_path: Path) -> None:
    made = evaluate(Walker(), Line(), 5, out=tmp_path, stop_when_solved=True)
    words = json.loads(
        (tmp_path / "evaluation.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in the file")
    )
    assert words == made.summary()
    assert words["latched"]["score"]["mean"] == pytest.approx(made.latched_score.mean())
    assert words["latched"]["return"]["mean"] == pytest.approx(made.latched.mean())
    assert words["raw"]["score"] is None
    assert {"commit", "machine", "versions", "when", "seeds", "horizon", "planning", "feasibility"} <= set(words)


def test_positions_are_kept_until_some_steps_after_the_first_success() -> None:
    positions = evaluate(Walker(), Line(horizon=90), 1, first_seed=0).positions
    assert positions is not None
    finite = np.isfinite(positions[0, :, 0])
    assert finite.tolist() == [True] * 59 + [False] * 32  # solved after 8 steps, 50 more


def test_at_most_so_many_plans_of_an_episode_are_kept_first_and_last_among_them(tmp_path: Path) -> None:
    evaluate(Walker(every=1, pace=-1.0), Line(horizon=200), 1, out=tmp_path)
    steps = [plan.step for plan in Scores.load(tmp_path).plans]
    assert len(steps) == PLANS_KEPT
    assert (steps[0], steps[-1]) == (0, 199)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"evaluation.json", "episodes.csv", "traces.npz"}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"could not be written \(No space left on device\)$"):
        evaluate(Walker(), Line(), 3, out=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_bad_input_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^evaluate: episodes, batch and jobs must be 1 or more, got 0, 500 and 1$"):
        evaluate(Walker(), Line(), 0)
    with pytest.raises(InputError, match=r"got 1, 0 and 1$"):
        evaluate(Walker(), Line(), 1, batch=0)
    with pytest.raises(InputError, match=r"and 0$"):
        evaluate(Walker(), Line(), 1, jobs=0)
    with pytest.raises(ValueError, match=r"^evaluate: the action at step 0 of the episode of seed 7 is not finite$"):
        evaluate(Walker(pace=np.nan), Line(), 2, first_seed=7)
    with pytest.raises(InputError, match=r"holds no evaluation .*: run `kedge eval "):
        Scores.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("episodes.csv", lambda text: text[: text.rindex(b"\n", 0, -2) + 1], "19 episodes instead of 20"),
        ("episodes.csv", lambda text: text.replace(b"latched,", b"other,", 1), "no column 'latched'"),
        ("episodes.csv", lambda text: text.replace(b",0.", b",zero.", 1), "could not convert"),
        ("evaluation.json", lambda text: text[:50], "cannot be read"),
        ("traces.npz", lambda text: text[:50], "cannot be read"),
        ("evaluation.json", lambda text: text.replace(b'"label"', b'"lable"'), "does not say label: evaluate again"),
        ("evaluation.json", lambda text: text.replace(b'"plans"', b'"plan"'), "does not say plans: evaluate again"),
        ("traces.npz", lambda text: text.replace(b"plan_points", b"plan_piknts"), "cannot be read"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: object, says: str) -> None:
    stored(tmp_path)
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))  # pyright: ignore[reportCallIssue]
    with pytest.raises(InputError, match=f"{name}.*{says}"):
        Scores.load(tmp_path)


def test_in_the_maze_every_episode_is_the_single_environments(tmp_path: Path) -> None:
    """The waypoint controller on umaze: rewards counted by hand in `Maze2D.step`, controller and hold included."""
    maze = Maze2D("umaze")
    scores = evaluate(maze.controller(), maze, 6, first_seed=40, out=tmp_path)
    for index, seed in enumerate((40, 45)):
        rewards, alone = [], maze.controller()
        observation, _ = maze.reset(seed=seed)
        alone.reset([seed])
        held = None
        for _ in range(300):
            action = alone.act(observation[None]) if held is None else hold_position(held, observation[None])
            observation, reward, *_ = maze.step(action[0])
            held = observation[None].copy() if reward and held is None else held
            rewards.append(reward)
        place = [0, 5][index]
        assert scores.raw[place] == sum(rewards)
        assert scores.latched[place] == 300 - rewards.index(1.0)
        assert scores.latched_score[place] == pytest.approx((scores.latched[place] - 23.85) / (161.86 - 23.85) * 100)
    assert scores.success.all()
    assert (scores.raw <= scores.latched).all()
    assert Scores.load(tmp_path).summary() == scores.summary()


def test_a_ball_that_is_held_comes_to_rest_where_it_is_held() -> None:
    """From 5 m/s past the point: the overshoot is at most v^2 / (2 a), a = 100 / (4/3 pi .1^3 1000) m/s^2, and dies."""
    maze = Maze2D("###########/#OOOOOOOOO#/#OOOOOOOOO#/#OOOOGOOOO#/#OOOOOOOOO#/#OOOOOOOOO#/###########")
    simulator = maze.simulator(1)
    simulator.reset([0])
    now = simulator.place(np.array([[3.0, 5.0, 0.0, 5.0]]))
    solved, farthest = now.copy(), 0.0
    for _ in range(150):
        now, _ = simulator.step(hold_position(solved, now))
        farthest = max(farthest, float(np.abs(now[:, :2] - solved[:, :2]).max()))
    assert 0.1 < farthest < 25 / (2 * 100 / (4 / 3 * np.pi))
    assert np.abs(now[:, :2] - solved[:, :2]).max() < 1e-3
