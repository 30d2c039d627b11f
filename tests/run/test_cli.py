"""The command line: what it says, where it says it, and the exit code that it ends with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import kedge
from kedge.envs import Layout, Maze2D
from kedge.errors import InputError
from kedge.run import cli
from kedge.run.commands.command import environment
from kedge.run.commands.demo import start_over
from kedge.run.commands.runs import evaluated, trained_steps
from kedge.train import AdamW, Batches, CheckpointError, Part, Trainer
from run.run_folder import Agent, Planner, write_evaluation, write_run, write_training

Run = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Tiny:
    """A recipe that trains a number, by the real trainer."""

    steps: int = 3
    """How many steps to train."""
    rate: float = 0.1
    """How fast."""

    def train(self, logs: Any, run: Any, *, seed: int, device: Any, progress: Any, task: str | None) -> Tiny:
        recipe = {"recipe": "FV", "fields": {"rate": self.rate}, "seed": seed, "task": task}
        net = torch.nn.Linear(1, 1)
        part = Part(net, lambda batch, tick: (net(batch).square().mean(1), {}), AdamW(lr=self.rate))
        source = Batches(torch.ones(8, 1), 4)
        Trainer([part], source, self.steps, run=run, seed=seed, recipe=recipe, progress=False).train()
        return self


class Loaded(Agent):
    """What `kedge.load` gives, without weights."""

    def controller(self, candidates: int | None = None) -> Planner:
        return Planner(self.layout, every=100)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEDGE_CACHE", str(tmp_path / "cache"))

    def ran(*args: str) -> tuple[int, str, str]:
        code = cli.main(list(args))
        said = capsys.readouterr()
        return code, said.out, said.err

    return ran


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("kedge.recipes")
    module.FV = Tiny  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kedge.recipes", module)
    monkeypatch.setattr(kedge, "recipes", module, raising=False)
    monkeypatch.setattr(kedge, "load", lambda folder: Loaded(Layout.of("umaze")), raising=False)


def test_help_lists_commands_flags_and_exit_codes(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for word in (*cli.COMMANDS, "--seed", "--device", "--threads", "--out", "--json", "exit codes", "130"):
        assert word in out
    assert run()[0] == 2
    assert run("--version")[1].startswith("kedge ")


@pytest.mark.parametrize("name", ["eval", "report", "compare", "data inspect", "demo", "train fv"])
def test_every_command_has_the_common_flags_each_with_a_sentence(name: str, run: Run, recipes: None) -> None:
    code, out, _ = run(*name.split(), "--help")
    assert code == 0
    plain = re.sub(r"[^\w\-.,:;'\s]", " ", re.sub(r"\x1b\[[\d;]*m", "", out))
    flags = re.findall(r"(?m)^ {1,3}(--[a-z][\w-]*)(.*(?:\n {4,}\w.*)*)", plain)
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
def test_bad_input_is_one_line_and_exit_code_2(args: list[str], said: str, run: Run, recipes: None) -> None:
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
def test_wrong_usage_is_exit_code_2(args: list[str], run: Run, recipes: None) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err


def test_train_takes_the_recipe_s_fields_as_flags_and_says_when_a_run_is_finished(run: Run, recipes: None) -> None:
    code, out, _ = run("train", "fv", "--env", "maze2d-umaze", "--demonstrations", "200", "--steps", "4")
    assert code == 0
    assert out == "trained: runs/fv-umaze\nnext: kedge eval runs/fv-umaze\n"
    assert trained_steps(Path("runs/fv-umaze")) == 4
    code, out, _ = run("train", "fv", "--env", "maze2d-umaze", "--demonstrations", "200", "--steps", "4", "--json")
    assert (code, json.loads(out)["finished_before"]) == (0, True)
    code, out, _ = run("train", "fv", "--env", "maze2d-umaze", "--demonstrations", "200", "--steps", "4")
    assert out.startswith("runs/fv-umaze is finished: trained 4 of 4 steps.")


def test_a_changed_recipe_in_a_run_s_folder_is_refused_with_the_fields_that_differ(run: Run, recipes: None) -> None:
    args = ("train", "fv", "--env", "maze2d-umaze", "--demonstrations", "200", "--out", "mine")
    assert run(*args)[0] == 0
    code, out, err = run(*args, "--rate", "0.2", "--steps", "9")
    assert (code, out) == (3, "")
    assert "fields.rate: 0.1 there, 0.2 here" in err.splitlines()[-1]
    assert trained_steps(Path("mine")) == 3


def test_one_s_own_data_are_trained_on(run: Run, recipes: None) -> None:
    columns = {
        "observations": np.zeros((60, 4), "f4"),
        "actions": np.zeros((60, 2), "f4"),
        "rewards": np.ones(60, "f4"),
    }
    np.savez("my.npz", **columns, ends=np.array([30, 60]))
    code, out, err = run("train", "fv", "--data", "my.npz")
    assert (code, out.splitlines()[0]) == (0, "trained: runs/fv-my"), err
    code, out, _ = run("data", "inspect", "my.npz", "--json")
    assert (code, json.loads(out)["steps"]) == (0, 60)
    code, out, _ = run("data", "inspect", "my.npz")
    assert re.search(r"(?m)^steps +60$", out)


def test_eval_names_latched_and_raw_and_stores_the_rows_beside_them(run: Run, recipes: None) -> None:
    write_training(Path("mine"), "maze2d-umaze")
    code, out, _ = run("eval", "mine", "--episodes", "4")
    assert code == 0
    for word in ("latched ", "raw ", "beside it: the data's controller, latched", "beside it: time-optimal, latched"):
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


def test_eval_needs_an_environment_that_the_run_does_not_name(run: Run, recipes: None) -> None:
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


def test_the_demo_goes_through_all_phases_and_does_none_twice(run: Run, recipes: None) -> None:
    code, out, err = run("demo", "--small", "--out", "d", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert list(found["phases"]) == ["demonstrations", "training", "evaluation", "report"]
    assert Path(found["report"]).read_text().startswith("<!DOCTYPE html>")
    assert found["episodes"] == 10
    evaluation = Path("d/evaluation.json").stat().st_mtime_ns
    code, out, err = run("demo", "--small", "--out", "d")
    assert code == 0
    assert "training: already finished, 40 steps" in err
    assert "evaluation: already finished, 10 starts" in err
    assert Path("d/evaluation.json").stat().st_mtime_ns == evaluation
    assert re.search(r"score +[\d.-]+ latched", out)
    assert out.splitlines()[-1].split()[-1] == str(Path("d/report.html").resolve())


def test_fresh_starts_over_but_leaves_alone_what_is_no_demo(run: Run, recipes: None) -> None:
    Path("precious").mkdir()
    (Path("precious") / "thesis.txt").write_text("all of it")
    code, _, err = run("demo", "--small", "--fresh", "--out", "precious")
    assert code == 2
    assert "is not a demo's folder, so it is left alone" in err
    assert (Path("precious") / "thesis.txt").read_text() == "all of it"
    write_training(Path("d"), "maze2d-umaze")
    start_over(Path("d"))
    assert not Path("d").exists()
    start_over(Path("d"))


def test_an_evaluation_is_done_again_after_more_training_or_for_other_starts(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"")
    (tmp_path / "evaluation.json").write_text(json.dumps({"episodes": 5, "seeds": [7, 11]}))
    assert evaluated(tmp_path, 5, 7, weights)
    assert not evaluated(tmp_path, 6, 7, weights)
    assert not evaluated(tmp_path, 5, 8, weights)
    later = (tmp_path / "evaluation.json").stat().st_mtime_ns + 10
    os.utime(weights, ns=(later, later))
    assert not evaluated(tmp_path, 5, 7, weights)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("this will not do"), 2, "kedge: this will not do\n"),
        (
            CheckpointError("x belongs to another recipe (a: 1 there, 2 here): choose another folder"),
            3,
            "(a: 1 there, 2 here)",
        ),
        (CheckpointError("x could not be written (No space left on device)"), 1, "No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit(130), 130, ""),
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
    (tmp_path / "open.txt").write_text("###\n#G \n###\n")
    with pytest.raises(InputError):
        environment(str(tmp_path / "open.txt"))
    with pytest.raises(InputError, match="cannot be read as a maze"):
        environment(str(tmp_path / "none.txt"))
