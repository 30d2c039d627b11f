"""What the doctor says of a machine that is fit, and of one that is not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

import kedge.train
from kedge.envs import Maze2D
from kedge.exact import GaussianMixture
from kedge.run import doctor
from kedge.run.doctor import Finding, disk, examined, extras, fit, guarded, missing, packages, rendering, threads, timed
from run.program import Run, program


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return program(capsys)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nobody draws here but who says so: that takes a process, and a driver."""
    asked: list[str] = []
    monkeypatch.setattr(doctor, "drawn", lambda backend: bool(asked.append(backend)) or backend in ("", "egl"))
    return asked


def test_a_machine_that_is_fit(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("doctor", "--json", "--out", str(tmp_path / "found.json"))
    found = json.loads(out)
    assert code == 0, out
    assert found == {"fit": True, "findings": json.loads((tmp_path / "found.json").read_text())["findings"]}
    names = [finding["name"] for finding in found["findings"]]
    wanted = [
        "versions",
        "device",
        "extras",
        "rendering",
        "threads",
        "disk",
        "walk",
        "training",
        "simulator",
        "checkpoint",
    ]
    assert list(dict.fromkeys(names)) == wanted
    assert not [finding for finding in found["findings"] if finding["state"] == "bad"]
    assert f"torch {torch.__version__}" in found["findings"][0]["what"]


def test_what_keeps_kedge_from_working_is_the_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "examined", lambda: [Finding("disk", "bad", "full", "make room"), Finding("x", "note", "y")]
    )
    code, out, _ = run("doctor")
    assert code == 1
    assert out.splitlines()[0] == "bad  disk        full; make room"
    assert out.splitlines()[-1].startswith("not fit")
    assert fit([Finding("x", "note", "y")])
    odd = guarded("device", lambda: [][0])
    assert [(finding.state, finding.name) for finding in odd] == [("bad", "device")]
    assert "IndexError" in odd[0].what


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("torch>=2.9", None),
        ("torch>=99", f"torch is {torch.__version__}, not >=99"),
        ("no-such-thing>=1", "no-such-thing is not installed"),
    ],
)
def test_a_requirement_is_met_or_it_is_said_how_not(text: str, said: str | None) -> None:
    assert missing(Requirement(text)) == said


def test_what_is_missing_comes_with_the_command_that_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [
        "torch>=2.9", "numpy>=99", 'h5py>=3; extra == "hdf5"', 'no-such-thing>=1; extra == "lora"',
        'nor-this; extra == "zarr"', 'pytest>=99; extra == "dev"',
    ]  # fmt: skip
    monkeypatch.setattr(doctor, "requires", lambda name: told)
    assert [(one.state, one.remedy) for one in packages()] == [("ok", ""), ("bad", "pip install 'numpy>=99'")]
    there, absent = extras()
    assert there.what == "installed: hdf5"
    assert absent.state == "note"
    assert "pip install 'kedge[lora,zarr]'" in absent.line


def test_another_way_to_draw_is_looked_for(monkeypatch: pytest.MonkeyPatch, at_once: list[str]) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    assert rendering()[0].state == "ok"
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert (rendering()[0].state, rendering()[0].remedy) == ("note", "export MUJOCO_GL=egl")
    assert at_once[1:3] == ["osmesa", "egl"]
    monkeypatch.setattr(doctor, "drawn", lambda backend: False)
    assert "libegl1" in rendering()[0].remedy


def test_places_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEDGE_CACHE", str(tmp_path / "not" / "there" / "yet"))
    runs, cache = disk()
    assert str(tmp_path / "not") in cache.what
    assert {runs.state, cache.state} <= {"ok", "note"}
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    assert (disk()[0].state, disk()[0].what.endswith("1.0 GB free")) == ("note", True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert [one.state for one in disk()] == ["bad", "bad"]
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    assert threads()[0].state == "note"


def test_a_walk_that_goes_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = GaussianMixture.denoiser
    monkeypatch.setattr(GaussianMixture, "denoiser", lambda self, path: exact(self, path))
    assert timed("walk", doctor.walks).state == "ok"

    def shifted(self: GaussianMixture, path: Any) -> Any:
        return exact(GaussianMixture([0.3, 0.7], self.means + torch.tensor([0.1, 0.0]), [0.04, 0.09]), path)

    monkeypatch.setattr(GaussianMixture, "denoiser", shifted)
    found = timed("walk", doctor.walks)
    assert found.state == "bad"
    assert "mean of a walk is off" in found.what
    assert "install kedge anew" in found.remedy


def test_what_does_not_train_step_or_keep_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kedge.train.Trainer, "train", lambda self: None)
    assert "moved no weight" in timed("training", doctor.trains).what
    simulators = iter(range(100))
    plain = Maze2D.simulator

    def restless(self: Any, count: int) -> Any:
        made, turn = plain(self, count), next(simulators)
        reset = made.reset
        made.reset = lambda seeds: reset([seed + turn for seed in seeds])
        return made

    monkeypatch.setattr(Maze2D, "simulator", restless)
    assert "end elsewhere" in timed("simulator", doctor.simulates).what
    monkeypatch.setattr(
        kedge.train, "load_tree", lambda folder: {"step": 3, "weights": [torch.zeros(1000), torch.ones(2)]}
    )
    assert "came back otherwise" in timed("checkpoint", doctor.keeps).what


def test_all_looks_are_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise OSError("no driver")

    for name in (
        "packages",
        "devices",
        "extras",
        "rendering",
        "threads",
        "disk",
        "walks",
        "trains",
        "simulates",
        "keeps",
    ):
        monkeypatch.setattr(doctor, name, broken)
    found = examined()
    assert len(found) == 10
    assert {one.state for one in found} == {"bad"}
    assert np.all(["no driver" in one.what for one in found])
