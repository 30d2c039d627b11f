"""The command line: what it says, where it says it, and the exit code that it ends with."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kedge
from kedge.data import Trajectories
from kedge.envs import Layout, Maze2D
from kedge.envs.demonstrations import settings
from kedge.errors import InputError
from kedge.exact.time_optimal import TimeOptimal
from kedge.run import cli
from kedge.run.commands import demo
from kedge.run.commands.command import environment
from kedge.run.commands.demo import MARK, start_over
from kedge.run.commands.runs import identity, recipe_of, refuse_another, task_of
from kedge.run.commands.train import short_episodes
from kedge.run.recorded import environment_of, named_for, recorded_layout, recorded_logs
from kedge.run.report.reading import read_run
from kedge.run.report.views import layout_of
from kedge.train import CheckpointError, RefusedError, load_weights, save_weights
from kedge.train.checkpoint import weights_step
from run.program import Run, program
from run.run_folder import Agent, Planner, write_evaluation, write_run, write_training


class Loaded(Agent):
    """What `kedge.load` gives, without weights."""

    def controller(self, candidates: int | None = None) -> Planner:
        return Planner(self.layout, every=100)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEDGE_CACHE", str(tmp_path / "cache"))
    return program(capsys)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any run plans by script, so that none needs weights."""
    monkeypatch.setattr(kedge, "load", lambda folder: Loaded(Layout.of("umaze")), raising=False)


def test_help_lists_commands_flags_and_exit_codes(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for word in (*cli.COMMANDS, "--seed", "--device", "--threads", "--out", "--json", "exit codes", "130"):
        assert word in out
    assert run()[0] == 2
    assert run("--version")[1].startswith("kedge ")


@pytest.mark.parametrize(
    "name",
    ["eval", "report", "compare", "play", "serve", "export", "data inspect", "doctor", "demo", "train fv"],
)
def test_every_command_has_the_common_flags_each_with_a_sentence(name: str, run: Run) -> None:
    code, out, _ = run(*name.split(), "--help")
    assert code == 0
    plain = re.sub(r"[^\w\-.,:;'\s]", " ", re.sub(r"\x1b\[[\d;]*m", "", out))
    flags = re.findall(r"(?m)^ {1,3}(--[a-z][\w-]*)(.*(?:\n {4,}[\w.].*)*)", plain)
    assert {"--seed", "--device", "--threads", "--out", "--json"} <= {flag for flag, _ in flags}
    assert [flag for flag, said in flags if len(said.split()) < 4] == []


def test_help_starts_at_once_and_loads_no_torch() -> None:
    heavy = "print(sorted({'torch', 'mujoco', 'tyro'} & set(sys.modules)))"
    code = f"import sys; from kedge.run.cli import main; main(['--help']); {heavy}"
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - begun < 1.5
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_module_runs_as_a_program_and_hands_its_code_to_the_shell() -> None:
    done = subprocess.run([sys.executable, "-m", "kedge", "tarin"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "kedge: there is no command 'tarin'; did you mean train?; kedge --help lists them\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["eval", "nowhere"], "nowhere: there is no such folder"),
        (["report", "."], "not a run's folder (it has no recipe.json)"),
        (["train", "vf"], "there is no recipe 'vf'; known are fv, dv, diffuser"),
        (["train", "fv", "--env", "maze2d-larg"], "did you mean maze2d-large?"),
        (["train", "fv", "--data", "nothing.npz"], "nothing.npz"),
        (
            ["train", "fv", "--env", "maze2d-umaze", "--demonstrations", "0"],
            "--demonstrations must be at least 1, got 0",
        ),
        (["train", "fv", "--device", "cuda:99"], "--device cuda:99: torch cannot use it here"),
        (["train", "fv", "--threads", "0"], "--threads must be at least 1, got 0"),
        (["data", "look"], "it is kedge data inspect FILE"),
        (["data", "inspect", "nothing.npz"], "nothing.npz"),
        (["compare", "."], "holds no evaluation"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(args: list[str], said: str, run: Run) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("kedge: ")
    assert err.count("\n") == 1
    code, out, err = run(*args, "--json")
    assert code == 2
    assert json.loads(out) == {"error": err.removeprefix("kedge: ").strip(), "exit": 2}


@pytest.mark.parametrize(
    "args", [["eval"], ["report"], ["train"], ["data"], ["demo", "--smal"], ["eval", "x", "--seed", "one"]]
)
def test_wrong_usage_is_exit_code_2(args: list[str], run: Run) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["demo", "--smal"], "Unrecognized options: --smal"),
        (["eval", "x", "--seed", "one"], "invalid literal for int() with base 10: 'one'"),
        (["train", "fv", "--width"], "--width"),
        (["train", "fv", "--" + "x" * 3000], "Unrecognized options"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_flag(args: list[str], said: str, run: Run) -> None:
    code, _, err = run(*args)
    assert code == 2
    assert err.startswith("kedge: ")
    assert said in err
    assert err.endswith(" --help lists the flags\n")
    assert (err.count("\n"), len(err) < 700) == (1, True)


TINY = ("--steps", "2", "--batch", "4", "--width", "8")
MADE = ("--env", "maze2d-umaze", "--demonstrations", "3000", *TINY)


def test_train_takes_the_recipe_s_fields_as_flags_and_says_when_a_run_is_finished(run: Run) -> None:
    code, out, err = run("train", "fv", *MADE)
    assert (code, out) == (0, "trained: runs/fv-umaze\nnext: kedge eval runs/fv-umaze\n"), err
    assert weights_step(Path("runs/fv-umaze/weights.safetensors")) == 2
    told = json.loads(Path("runs/fv-umaze/recipe.json").read_text())
    assert (told["recipe"], told["task"], told["fields"]["width"]) == ("FV", "maze2d-umaze", 8)
    shutil.rmtree("cache")  # a finished run needs no data, so that none is made
    code, out, _ = run("train", "fv", *MADE, "--json")
    assert (code, json.loads(out)["finished_before"]) == (0, True)
    assert not Path("cache").exists()
    code, out, _ = run("train", "fv", *MADE)
    assert out.startswith("runs/fv-umaze is finished: trained 2 of 2 steps, nothing to do\n")


def test_train_passes_on_how_it_is_to_compute(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, bool | str]] = []

    def trainer(*args: Any, **given: Any) -> Any:
        heard.append((given["precision"], given["compile"]))
        raise InputError("enough")

    monkeypatch.setattr("kedge.recipes.training.Trainer", trainer)
    assert run("train", "fv", *MADE)[0] == 2
    assert run("train", "fv", *MADE, "--precision", "bf16", "--compile")[0] == 2
    code, _, said = run("train", "fv", *MADE, "--shard")  # torchrun has not started this one
    assert (code, "there is one process" in said, "torchrun" in said) == (2, True, True)
    assert heard == [("fp32", False), ("bf16", True)]


def test_a_run_whose_weights_are_of_an_earlier_step_than_its_checkpoint_is_not_finished(run: Run) -> None:
    assert run("train", "fv", *MADE)[0] == 0
    weights = Path("runs/fv-umaze/weights.safetensors")
    save_weights(weights, load_weights(weights), {"step": "1"})  # as where it was killed between the two
    assert Path("runs/fv-umaze/state/step-00000002").is_dir()
    code, out, _ = run("train", "fv", *MADE, "--json")
    assert (code, json.loads(out)["finished_before"]) == (0, False)


def test_weights_of_an_earlier_step_are_said_to_be_and_the_step_is_kept_with_the_scores(run: Run, loaded: None) -> None:
    write_training(Path("mine"), "maze2d-umaze")
    save_weights(Path("mine/weights.safetensors"), {}, {"step": "2000"})
    code, out, err = run("eval", "mine", "--episodes", "3", "--alone")
    assert (code, "note: the weights in mine are of step 2,000 of 4,000" in err) == (0, True)
    assert out.startswith("maze2d-umaze, FV, step 2,000 of 4,000: 3 episodes")
    words = json.loads(Path("mine/evaluation.json").read_text())
    assert (words["step"], words["steps"]) == (2000, 4000)
    code, _, err = run("report", "mine")
    assert (code, "of step 2,000 of 4,000" in err) == (0, True)
    assert "FV on Maze2D umaze, step 2,000 of 4,000" in Path("mine/report.html").read_text()
    save_weights(Path("mine/weights.safetensors"), {}, {"step": "4000"})
    code, out, err = run("eval", "mine", "--episodes", "3", "--alone")
    assert "note:" not in err
    assert out.startswith("maze2d-umaze, FV: 3 episodes")


def test_a_changed_recipe_in_a_run_s_folder_is_refused_with_the_fields_that_differ_before_data_are_made(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_training(Path("mine"), "maze2d-umaze", rate=0.1)
    there = {"recipe": "FV", "seed": 0, "task": "maze2d-umaze", "fields": asdict(kedge.recipes.FV(steps=5))}
    Path("mine/recipe.json").write_text(json.dumps(there))
    monkeypatch.setattr(Maze2D, "demonstrations", None)
    args = ("train", "fv", "--env", "maze2d-umaze", "--out", "mine")
    code, out, err = run(*args, "--rate", "0.25", "--steps", "9", "--seed", "2")
    assert (code, out) == (3, "")
    differ = "fields.rate: [^;]* there, 0.25 here; fields.steps: 5 there, 9 here; seed: 0 there, 2 here"
    assert re.search(rf"{differ}\): choose another folder", err.splitlines()[-1])
    assert run("train", "dv", "--env", "maze2d-umaze", "--out", "mine", "--json")[0] == 3


def test_other_demonstrations_are_another_run(run: Run) -> None:
    layout = Maze2D("umaze").layout
    recipe = kedge.recipes.FV()
    mine = identity(recipe, 0, Maze2D("umaze"), settings(layout, 3000, 0))
    Path("mine").mkdir()
    Path("mine/recipe.json").write_text(json.dumps({**mine, "sizes": {"state": 4}}))
    refuse_another(Path("mine"), mine)
    with pytest.raises(RefusedError, match=r"settings.steps: 3000 there, 4000 here\)"):
        refuse_another(Path("mine"), identity(recipe, 0, Maze2D("umaze"), settings(layout, 4000, 0)))


def test_seeds_of_training_share_their_demonstrations(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(Maze2D, "demonstrations", lambda self, **how: made.append(how["seed"]))
    for seed in ("0", "7"):
        run("train", "fv", *MADE, "--seed", seed)
    run("train", "fv", *MADE, "--seed", "8", "--data-seed", "3")
    assert made == [0, 0, 3]


def columns(steps: int = 60, state: int = 4, action: int = 2, episode: int = 30) -> dict[str, Any]:
    """Logs that would do for a small plan."""
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(steps, state)).astype("f4"),
        "actions": rng.uniform(-1, 1, (steps, action)).astype("f4"),
        "rewards": (np.arange(steps) % episode > episode - 4).astype("f4"),
        "ends": np.arange(episode, steps + 1, episode),
    }


SHORT = ("--stride", "2", "--horizon", "8")


def test_one_s_own_data_are_trained_on_and_found_again_for_the_rows_beside_a_score(run: Run) -> None:
    np.savez("my.npz", **columns(600, episode=60))
    code, out, err = run("train", "fv", "--data", "my.npz", "--env", "maze2d-umaze", *TINY, *SHORT, "--out", "mine")
    assert (code, out.splitlines()[0]) == (0, "trained: mine"), err
    assert isinstance(recorded_logs(Path("mine"), recipe_of(Path("mine"))), Trajectories)
    np.savez("my.npz", **columns(540, episode=60))
    assert (
        recorded_logs(Path("mine"), recipe_of(Path("mine"))) == "the data that the run learned from have changed since"
    )
    code, out, _ = run("data", "inspect", "my.npz", "--json")
    assert (code, json.loads(out)["steps"]) == (0, 540)
    code, out, _ = run("data", "inspect", "my.npz")
    assert re.search(r"(?m)^steps +540$", out)


def broken(what: str) -> dict[str, Any]:
    """Logs that nothing can be learned from."""
    found = columns()
    match what:
        case "nan":
            found["observations"][7, 1] = np.nan
        case "flat":
            found["observations"] = found["observations"][:, 0]
        case "uneven":
            found["actions"] = found["actions"][:-3]
        case "odd":
            found = columns(state=5)
        case "three actions":
            found = columns(action=3)
        case "no rewards":
            del found["rewards"]
        case "never rewarded":
            found["rewards"][:] = 0
        case "no ends":
            del found["ends"]
    return found


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nan", "my.npz: observations holds 1 numbers that are infinite or nan, the first at step 7, dimension 1"),
        ("flat", "my.npz: observations must be [N, S], a row of numbers for each step, got [60]"),
        ("uneven", "my.npz: actions has 57 steps, but observations 60"),
        ("odd", "even number of dimensions"),
        ("three actions", "actions"),
        ("no rewards", "the data carries none; add a column of rewards"),
        ("never rewarded", "positive"),
        ("no ends", "my.npz: nothing says where episodes end"),
        ("short", "the longest episode of the data has 30 steps, less than two strides"),
    ],
)
def test_data_that_nothing_can_be_learned_from_are_one_line_before_any_work(what: str, said: str, run: Run) -> None:
    np.savez("my.npz", **broken(what))
    flags = ("--stride", "16") if what == "short" else SHORT
    code, out, err = run("train", "fv", "--data", "my.npz", *TINY, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        ("####\n#G O\n####", "has an open border at row 2 column 4; put a # there"),
        ("#####\n#G#O#\n#####", "has no way to the goal from row 2 column 4"),
        ("#####\n#OOO#\n#####", "has no goal; mark one free cell with G"),
        ("#####\n#GX #\n#####", "row 2 column 3 is 'X'"),
        ("#####\n#G#\n#####", "row 2 has 3 cells, row 1 has 5"),
    ],
)
def test_a_maze_that_is_none_is_one_line(drawn: str, said: str, run: Run) -> None:
    Path("my.txt").write_text(drawn)
    for command in (("train", "fv"), ("demo",)):
        code, out, err = run(*command, "--env", "my.txt")
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert "maze 'my'" in err
        assert said in err


def test_a_goal_in_a_wall_and_an_environment_that_does_not_fit_are_one_line(run: Run) -> None:
    code, _, err = run("train", "fv", *MADE, "--goal", "2", "1")
    assert (code, err.count("\n")) == (2, 1)
    assert "the goal (2.0, 1.0) lies in the wall at row 3 column 2; move it" in err
    np.savez("my.npz", **columns(state=6))
    code, _, err = run("train", "fv", "--env", "maze2d-umaze", "--data", "my.npz")
    assert (code, err.count("\n")) == (2, 1)
    assert "my.npz: the data have states of 6 and actions of 2 numbers, but maze2d-umaze has 4 and 2" in err
    write_training(Path("mine"), "maze2d-umaze")
    told = json.loads(Path("mine/recipe.json").read_text()) | {"sizes": {"state": 60, "action": 9}}
    Path("mine/recipe.json").write_text(json.dumps(told))
    code, _, err = run("eval", "mine")
    assert (code, err.count("\n")) == (2, 1)
    assert "mine was trained on states of 60 and actions of 9 numbers, but maze2d-umaze has 4 and 2" in err
    Path("mine/recipe.json").write_text(json.dumps(told | {"sizes": {"state": 60}}))
    code, _, err = run("eval", "mine", "--env", "maze2d-umaze")
    assert code == 2
    assert "mine/recipe.json: sizes has no whole numbers for state and action" in err


def test_episodes_shorter_than_a_plan_are_said_to_be(run: Run) -> None:
    np.savez("my.npz", **columns())
    logs = kedge.data.open("my.npz")
    note = short_episodes(kedge.recipes.FV(horizon=8, stride=5), logs)
    assert note is not None
    assert "the longest episode has 30 steps and a plan spans 36" in note
    logs = Trajectories.of(**columns(72, episode=36))
    assert short_episodes(kedge.recipes.FV(horizon=8, stride=5), logs) is None


def test_a_goal_that_was_moved_is_found_again_in_the_recipe(tmp_path: Path) -> None:
    for maze in (Maze2D("umaze", goal=(3.0, 1.0)), Maze2D("umaze", horizon=90), Maze2D("####/#GO#/####")):
        told = {"task": maze.name, "data": {"provenance": {"settings": settings(maze.layout, 10, 0)}}}
        found = recorded_layout(told)
        assert found is not None
        assert (f"maze2d-{found.name}", found.horizon, found.goal.tolist()) == (
            maze.name, maze.horizon, maze.layout.goal.tolist()
        )  # fmt: skip


def test_a_run_on_one_s_own_data_is_evaluated_in_the_very_maze_that_it_was_trained_for(run: Run) -> None:
    np.savez("my.npz", **columns(600, episode=60))
    Path("my-goal-b.txt").write_text("#####\n#OGO#\n#####\n")
    Maze2D("umaze").demonstrations(steps=3000, cache=False).save("logs")
    for flags in (
        ("--data", "my.npz", "--env", "maze2d-umaze", "--goal", "3", "1"),
        ("--data", "my.npz", "--env", "my-goal-b.txt"),
        ("--data", "logs", "--env", "my-goal-b.txt"),
    ):
        code, _, err = run("train", "fv", *flags, *TINY, *SHORT, "--out", "mine")
        assert code == 0, err
        task = environment(flags[3], (3.0, 1.0) if "--goal" in flags else None)
        found = task_of(Path("mine"), None)
        assert (found.name, environment_of(found)) == (task.name, environment_of(task))
        assert recipe_of(Path("mine"))["environment"] == environment_of(task)
        shutil.rmtree("mine")


def test_another_maze_of_the_same_name_is_another_run_but_those_of_earlier_versions_go_on(run: Run) -> None:
    task, other = Maze2D(Layout.of("####/#GO#/####", name="b")), Maze2D(Layout.of("####/#OG#/####", name="b"))
    recipe = kedge.recipes.FV()
    Path("mine").mkdir()
    assert named_for(Path("mine"), task) == environment_of(task)
    Path("mine/recipe.json").write_text(json.dumps(identity(recipe, 0, task, None)))
    with pytest.raises(RefusedError, match=r"environment\.maze"):
        refuse_another(Path("mine"), identity(recipe, 0, other, None))
    earlier = {key: value for key, value in identity(recipe, 0, task, None).items() if key != "environment"}
    Path("mine/recipe.json").write_text(json.dumps(earlier))
    refuse_another(Path("mine"), identity(recipe, 0, task, None))
    assert named_for(Path("mine"), task) == "maze2d-b"


def test_a_report_draws_the_maze_of_one_s_own_that_a_run_was_evaluated_in(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_training(Path("mine"), "maze2d-umaze")
    rows = ("#####", "#OGO#", "#OOO#", "#####")
    Path("b.txt").write_text("\n".join(rows))
    monkeypatch.setattr(kedge, "load", lambda folder: Loaded(Layout.of("/".join(rows))), raising=False)
    assert run("eval", "mine", "--episodes", "2", "--alone", "--env", "b.txt")[0] == 0
    layout = layout_of(read_run(Path("mine")))
    assert layout is not None
    assert layout.rows == rows


def test_what_was_evaluated_is_kept_until_something_changes(run: Run, loaded: None) -> None:
    write_training(Path("mine"), "maze2d-umaze")
    save_weights(Path("mine/weights.safetensors"), {}, {"step": "4000"})
    rows = ("evaluation.json", "baselines/controller/evaluation.json", "baselines/optimal/evaluation.json")

    def measured(*flags: str, episodes: int = 3) -> list[bool]:
        before = [Path("mine", row).stat().st_mtime_ns if Path("mine", row).exists() else 0 for row in rows]
        assert run("eval", "mine", "--episodes", str(episodes), *flags)[0] == 0
        return [Path("mine", row).stat().st_mtime_ns != old for row, old in zip(rows, before, strict=True)]

    assert measured() == [True, True, True]
    assert measured() == [False, False, False]
    assert "evaluated already" in run("eval", "mine", "--episodes", "3")[2]
    assert measured("--fresh") == [True, True, True]
    assert measured(episodes=4) == [True, True, True]
    assert measured("--first-seed", "5", episodes=4) == [True, True, True]
    Path("mine/episodes.csv").unlink()
    assert measured("--first-seed", "5", episodes=4) == [True, False, False]
    save_weights(Path("mine/weights.safetensors"), {}, {"step": "4000", "other": "weights"})
    os.utime("mine/weights.safetensors", ns=(0, 0))
    assert measured("--first-seed", "5", episodes=4) == [True, False, False]


def test_an_evaluation_that_was_interrupted_goes_on_from_what_is_finished(
    run: Run, loaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Any, states: Any) -> Any:
        raise KeyboardInterrupt

    write_training(Path("mine"), "maze2d-umaze")
    rows = ("evaluation.json", "baselines/controller/evaluation.json")
    with monkeypatch.context() as patched:
        patched.setattr(TimeOptimal, "steps", interrupted)
        assert run("eval", "mine", "--episodes", "3")[0] == 130
    before = [Path("mine", row).stat().st_mtime_ns for row in rows]
    code, out, _ = run("eval", "mine", "--episodes", "3")
    assert (code, "time-optimal (knows the map and the physics), latched" in out) == (0, True)
    assert [Path("mine", row).stat().st_mtime_ns for row in rows] == before


def test_an_evaluation_with_other_candidates_says_so_and_is_not_taken_for_the_run_s_own_score(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("train", "fv", *MADE, "--candidates", "3")[0] == 0
    args = ("eval", "runs/fv-umaze", "--episodes", "2", "--alone", "--json")
    other = json.loads(run(*args, "--candidates", "2")[1])
    assert other["overrides"] == {"candidates": 2}
    out = run(*args[:-1], "--candidates", "2")[1]
    assert out.startswith("maze2d-umaze, FV, candidates 2: 2 episodes")
    assert run("report", args[1])[0] == 0
    assert "FV on Maze2D umaze, candidates 2" in Path(args[1], "report.html").read_text()
    own = json.loads(run(*args)[1])
    assert "overrides" not in own
    assert own["when"] >= other["when"]
    assert "evaluated already" in run(*args, "--candidates", "3")[2]  # the recipe's own number is no override
    assert "evaluated already" not in run(*args, "--candidates", "2")[2]


def test_data_that_the_run_did_not_learn_from_are_refused_before_anything_is_evaluated(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = Maze2D("umaze").demonstrations(steps=6000, cache=False)
    logs.split(0.5)[0].save("half")
    code, _, err = run("train", "fv", "--data", "half", "--env", "maze2d-umaze", *TINY, *SHORT, "--out", "mine")
    assert code == 0, err
    found = recorded_logs(Path("mine"), recipe_of(Path("mine")))
    assert isinstance(found, Trajectories)
    assert found.digest == kedge.data.open("half").digest
    np.savez("other.npz", **columns(600, episode=60))
    code, _, err = run("eval", "mine", "--episodes", "2", "--data", "other.npz")
    assert (code, err.count("\n")) == (2, 1)
    assert "--data other.npz: not the data that mine learned from" in err
    assert not Path("mine/evaluation.json").exists()
    Path("half").rename("moved")
    code, out, err = run("eval", "mine", "--episodes", "2", "--data", "moved")
    assert (code, "nearest logged segments, same critic and follower, latched" in out) == (0, True), err


def test_eval_names_latched_and_raw_and_stores_the_rows_beside_them(run: Run, loaded: None) -> None:
    write_training(Path("mine"), "maze2d-umaze")
    code, out, _ = run("eval", "mine", "--episodes", "4")
    assert code == 0
    for word in ("latched ", "raw ", "beside it: the data's controller, latched", "beside it: time-optimal (knows"):
        assert word in out
    best = json.loads(Path("mine/baselines/optimal/evaluation.json").read_text())["latched"]["score"]["mean"]
    own = json.loads(Path("mine/evaluation.json").read_text())["latched"]["score"]["mean"]
    assert best > own
    code, out, _ = run("eval", "mine", "--episodes", "4", "--json", "--out", "there", "--alone")
    found = json.loads(out)
    assert (found["episodes"], found["seeds"]) == (4, [1_000_000, 1_000_003])
    assert Path("there/episodes.csv").exists()
    assert not Path("there/baselines").exists()
    assert "label" in found
    assert {"latched", "raw"} <= set(found)


def test_eval_needs_an_environment_that_the_run_does_not_name(run: Run) -> None:
    write_training(Path("mine"), "")
    code, _, err = run("eval", "mine")
    assert code == 2
    assert "say which with --env" in err


def test_compare_pairs_two_runs_and_writes_what_it_found(run: Run) -> None:
    for name, rate, lost in (("a", 300.0, 0), ("b", 900.0, 3)):
        write_training(Path(name), "maze2d-umaze", rate=rate)
        write_evaluation(Path(name), Maze2D("umaze"), 6, name, lost, plans=False)
    code, out, _ = run("compare", "a", "b", "--out", "found/pair.json")
    assert code == 0
    assert "stored in found/pair.json" in out
    assert "each less the first, a:" in out
    assert "b - a: " in out
    assert json.loads(Path("found/pair.json").read_text())
    code, out, _ = run("compare", "a", "b", "--json")
    assert json.loads(out) == json.loads(Path("found/pair.json").read_text())
    assert run("compare", "a", "--json")[0] == 2


def test_report_is_written_and_its_place_is_said(run: Run) -> None:
    write_run(Path("mine"), "umaze", 3, baselines=False)
    code, out, _ = run("report", "mine")
    assert (code, out) == (0, "report: mine/report.html\n")
    code, out, _ = run("report", "mine", "--out", "there/page.html", "--json")
    found = json.loads(out)
    assert (found["report"], found["bytes"]) == ("there/page.html", Path("there/page.html").stat().st_size)


def test_the_demo_goes_through_all_phases_and_does_none_twice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"steps": 2, "batch": 4, "width": 8, "candidates": 3}
    monkeypatch.setattr(demo, "SMALL", demo.Scale("maze2d-umaze", 4000, 3, fields))
    code, out, err = run("demo", "--small", "--out", "d", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert Path("d", MARK).is_file()
    assert list(found["phases"]) == ["demonstrations", "training", "evaluation", "report"]
    assert Path(found["report"]).read_text().startswith("<!DOCTYPE html>")
    assert found["episodes"] == 3
    assert list(found["beside"]) == ["controller", "nearest", "astar", "optimal"]
    assert all(row["latched"] for row in found["beside"].values())
    kept = ("evaluation.json", "weights.safetensors", *(f"baselines/{key}/evaluation.json" for key in found["beside"]))
    before = {name: Path("d", name).stat().st_mtime_ns for name in kept}
    shutil.rmtree("d/baselines/astar")  # as if it had been interrupted before
    code, out, err = run("demo", "--small", "--out", "d")
    assert code == 0
    assert "training: already finished, 2 steps" in err
    assert "beside it: A*" in err
    assert "nearest" not in err
    assert {name for name, when in before.items() if Path("d", name).stat().st_mtime_ns != when} == {
        "baselines/astar/evaluation.json"
    }
    assert re.search(r"score +[\d.-]+ latched", out)
    assert out.splitlines()[-1].split()[-1] == str(Path("d/report.html").resolve())
    assert run("demo", "--small", "--out", "d", "--seed", "1")[0] == 3


def test_fresh_starts_over_but_leaves_alone_what_is_no_demo(run: Run) -> None:
    Path("precious").mkdir()
    (Path("precious") / "thesis.txt").write_text("all of it")
    code, _, err = run("demo", "--small", "--fresh", "--out", "precious")
    assert code == 2
    assert f"is not a folder that the demo has made (it has no {MARK}), so it is left alone" in err
    assert (Path("precious") / "thesis.txt").read_text() == "all of it"
    write_training(Path("run"), "maze2d-umaze")
    (Path("run") / "data").mkdir()
    with pytest.raises(InputError, match="not a folder that the demo has made"):
        start_over(Path("run"))
    demo.mark(Path("run"))  # what holds something already is not the demo's
    assert not (Path("run") / MARK).exists()
    demo.mark(Path("d"))
    (Path("d") / "data").mkdir()
    start_over(Path("d"))
    assert not Path("d").exists()
    start_over(Path("d"))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("this will not do"), 2, "kedge: this will not do\n"),
        (
            RefusedError("x belongs to another recipe (a: 1 there, 2 here): choose another folder"),
            3,
            "(a: 1 there, 2 here)",
        ),
        (CheckpointError("x could not be written (No space left on device)"), 1, "No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit(130), 130, ""),
        (
            OSError(28, "No space left on device", "runs/x"),
            1,
            "kedge: runs/x: No space left on device; the same",
        ),
        (OSError("odd"), 1, "kedge: odd; the same command goes on"),
        (MemoryError(), 1, "kedge: not enough memory for this (MemoryError: no more to be had); smaller"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8\nat"), 1, "not enough memory for this (RuntimeE"),
        (RuntimeError("surprise"), 1, "RuntimeError: surprise"),
    ],
)
def test_whatever_ends_a_command_becomes_its_exit_code(
    error: BaseException, code: int, said: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(args: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fails)
    found, out, err = run("report", "x")
    assert (found, out) == (code, "")
    assert said in err
    assert ("Traceback" in err) == (said == "RuntimeError: surprise")


@pytest.mark.parametrize(
    ("stop", "said"),
    [(2, "wrong usage"), (130, "interrupted"), (143, "terminated"), (5, "stopped"), ("why", "stopped")],
)
def test_what_stops_a_command_is_json_where_json_was_asked_for(
    stop: int | str, said: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(args: list[str]) -> int:
        raise SystemExit(stop)

    monkeypatch.setattr(cli, "_run", stops)
    code, out, _ = run("train", "fv", "--json")
    assert code == (stop if isinstance(stop, int) else 1)
    assert json.loads(out) == {"error": f"{said}; standard error says more", "exit": code}


def test_wrong_flags_and_help_keep_to_the_contract_of_json(run: Run) -> None:
    code, out, err = run("eval", "x", "--seed", "one", "--json")
    assert (code, json.loads(out)["exit"], bool(err)) == (2, 2, True)
    code, out, _ = run("eval", "--help", "--json")
    assert (code, "error" in out.splitlines()[-1]) == (0, False)


def test_out_is_made_where_it_can_be_and_one_line_where_it_cannot(run: Run) -> None:
    np.savez("my.npz", **columns())
    assert run("data", "inspect", "my.npz", "--out", "missing/dir/x.json")[0] == 0
    assert json.loads(Path("missing/dir/x.json").read_text())["steps"] == 60
    code, _, err = run("data", "inspect", "my.npz", "--out", "my.npz/x.json")
    assert (code, err.count("\n")) == (2, 1)
    assert "--out my.npz/x.json: could not be written" in err


def test_json_stands_alone_on_standard_output_whatever_libraries_print(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kedge.run.commands import report as command

    def noisy(self: Any) -> Any:
        print("a library greets you")
        return command.Outcome(["done"], {"done": True})

    monkeypatch.setattr(command.Report, "run", noisy)
    code, out, err = run("report", "x", "--json")
    assert (code, json.loads(out)) == (0, {"done": True})
    assert "greets" in err
    assert run("report", "x")[1] == "a library greets you\ndone\n"


def test_mazes_go_by_name_or_by_a_text_that_draws_them(tmp_path: Path) -> None:
    assert environment("maze2d-medium").name == "maze2d-medium"
    (tmp_path / "mine.txt").write_text("#####\n#OOG#\n#####\n")
    assert environment(str(tmp_path / "mine.txt")).name == "maze2d-mine"
    (tmp_path / "large.txt").write_text("#####\n#OOG#\n#####\n")
    with pytest.raises(InputError, match=r"large\.txt: it would be called maze2d-large, .* give the file another name"):
        environment(str(tmp_path / "large.txt"))
    (tmp_path / "umaze-goal-1-1.txt").write_text("#####\n#GOO#\n#####\n")
    with pytest.raises(InputError, match="a variant of the known maze umaze"):
        environment(str(tmp_path / "umaze-goal-1-1.txt"))
    (tmp_path / "umaze.txt").write_text("#####\n#G..#\n###.#\n#...#\n#####\n")
    assert environment(str(tmp_path / "umaze.txt")).horizon == Maze2D("umaze").horizon == 300
    (tmp_path / "open.txt").write_text("###\n#G \n###\n")
    with pytest.raises(InputError):
        environment(str(tmp_path / "open.txt"))
    with pytest.raises(InputError, match="cannot be read as a maze"):
        environment(str(tmp_path / "none.txt"))
