"""`kedge align`: a new run beside the one that it began with; it is evaluated, reported and aligned like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import kedge
from kedge.run import cli
from kedge.run.commands.align import default_name
from kedge.run.notes import label_of
from kedge.train import load_weights
from run.program import Run, program

TINY = ("--steps", "2", "--batch", "4", "--width", "8", "--atlas", "4", "--candidates", "4")
FEW = ("--steps", "2", "--batch", "4", "--each", "2", "--evaluations", "3")
BASE = Path("runs/fv-umaze")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, and the cache that its demonstrations are in."""
    place = tmp_path_factory.mktemp("aligned")
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    patch.setenv("KEDGE_CACHE", str(place / "cache"))
    args = ["train", "fv", "--env", "maze2d-umaze", "--demonstrations", "3000", *TINY]
    assert cli.main(args) == 0
    patch.undo()
    return place


@pytest.fixture
def run(made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(made)
    monkeypatch.setenv("KEDGE_CACHE", str(made / "cache"))
    return program(capsys)


def denoiser(folder: Path | str) -> dict[str, Tensor]:
    planner: Any = kedge.load(folder).proposer
    return planner.denoiser.state_dict()


def test_a_run_is_aligned_into_another_evaluated_reported_and_aligned_again(run: Run) -> None:
    begun = (BASE / "weights.safetensors").read_bytes()
    code, out, err = run("align", "vmpo", str(BASE), "--reward", "speed", *FEW)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "aligned: runs/fv-umaze-speed"
    assert [line.partition(":")[0] for line in lines[1:4]] == [
        "reward of a plan", "distance between plans from one place", "share of a plan where the logs have been",
    ]  # fmt: skip
    assert lines[-1] == "next: kedge eval runs/fv-umaze-speed"
    assert (BASE / "weights.safetensors").read_bytes() == begun
    told = json.loads(Path("runs/fv-umaze-speed/recipe.json").read_text())
    assert (told["recipe"], told["aligned"]["method"], told["aligned"]["reward"]) == ("FV", "VMPO", "speed")
    one, other = denoiser(BASE), denoiser("runs/fv-umaze-speed")
    assert not all(value.equal(other[name]) for name, value in one.items())
    moved = load_weights("runs/fv-umaze-speed/weights.safetensors")
    assert all(moved[f"denoiser.{name}"].equal(value) for name, value in other.items())

    code, out, _ = run("align", "vmpo", str(BASE), "--reward", "speed", *FEW, "--json")
    assert (code, json.loads(out)["finished_before"]) == (0, True)
    code, out, err = run("eval", "runs/fv-umaze-speed", "--episodes", "3", "--alone")
    assert code == 0, err
    assert out.startswith("maze2d-umaze, FV aligned to speed: 3 episodes")
    code, _, err = run("report", "runs/fv-umaze-speed")
    assert code == 0, err
    page = Path("runs/fv-umaze-speed/report.html").read_text()
    assert "FV aligned to speed on Maze2D umaze" in page
    assert "What alignment has changed" in page
    assert "Reward of a plan" in page
    assert run("report", str(BASE))[0] == 0
    assert "What alignment has changed" not in (BASE / "report.html").read_text()

    box = ("--reward", "keep-out", "--box", "0.5", "0.5", "2.5", "2.5")
    code, out, err = run("align", "ddpo", "runs/fv-umaze-speed", *box, *FEW)
    assert (code, out.splitlines()[0]) == (0, "aligned: runs/fv-umaze-speed-keep-out"), err
    told = json.loads(Path("runs/fv-umaze-speed-keep-out/recipe.json").read_text())
    assert (told["aligned"]["method"], told["aligned"]["box"]) == ("DDPO", [0.5, 0.5, 2.5, 2.5])
    assert told["aligned"]["earlier"]["reward"] == "speed"
    third = denoiser("runs/fv-umaze-speed-keep-out")
    assert not all(value.equal(third[name]) for name, value in other.items())


def test_a_black_box_from_a_file_may_fail_for_some(run: Run) -> None:
    Path("mine.py").write_text(
        "def calm(plans, cond):\n"
        "    if len(plans) > 1 and float(plans[0, 0, 0]) > 0:\n"
        "        raise ValueError('one at a time, please')\n"
        "    return -plans.requires_grad_()[..., 2:].norm(dim=-1)\n"  # of each entry, and it wants gradients
    )
    code, out, err = run("align", "vmpo", str(BASE), "--reward", "mine.py:calm", *FEW, "--seed", "1")
    assert (code, out.splitlines()[0]) == (0, "aligned: runs/fv-umaze-calm-1"), err
    Path("mine.py").write_text("def calm(plans, cond):\n    return plans[:, -1, 0]\n")
    code, _, err = run("align", "vmpo", str(BASE), "--reward", "mine.py:calm", *FEW, "--seed", "1")
    assert code == 3
    assert "aligned.file" in err, "another reward is another run"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["fast", "runs/fv-umaze"], "there is no method 'fast'; known are vmpo, ddpo, awm"),
        (["vmpo", "nowhere", "--reward", "speed"], "nowhere: there is no such folder"),
        (["vmpo", "runs/fv-umaze", "--reward", "keep-out"], "--reward keep-out and --box X0 Y0 X1 Y1 belong together"),
        (["vmpo", "runs/fv-umaze", "--reward", "glory"], "--reward glory: speed, keep-out, or file.py:function"),
        (["vmpo", "runs/fv-umaze", "--reward", "none.py:f"], "there is no file none.py"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(args: list[str], said: str, run: Run) -> None:
    there = {path.name for path in Path("runs").iterdir()}
    code, out, err = run("align", *args)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert {path.name for path in Path("runs").iterdir()} == there


def test_names() -> None:
    assert default_name("fv-large", "speed", 0) == "fv-large-speed"
    assert default_name("fv-large", "mine.py:calm", 2) == "fv-large-calm-2"
    assert label_of({"recipe": "FV"}, "it") == "FV"
    assert label_of({}, "it") == "it"
    assert label_of({"recipe": "FV", "aligned": {"reward": "speed"}}, "it") == "FV aligned to speed"
