"""`kedge quantise`: a run of its own, in few bits, that is loaded and evaluated like any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import kedge
from run.program import program

TINY = ("--steps", "2", "--batch", "4", "--width", "8", "--atlas", "4", "--candidates", "4", "--horizon", "8")
HERE = np.array([1.0, 1.0, 0.0, 0.0])


def test_a_run_is_quantised_into_another_and_once_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEDGE_CACHE", str(tmp_path / "cache"))
    run, base, made = program(capsys), Path("runs/fv-umaze"), Path("runs/fv-umaze-int6")
    assert run("train", "fv", "--env", "maze2d-umaze", "--demonstrations", "3000", *TINY)[0] == 0
    begun = (base / "weights.safetensors").read_bytes()
    code, out, err = run("quantise", str(base), "--bits", "6", "--samples", "16")
    assert code == 0, err
    assert out.splitlines()[0] == f"quantised: {made}"
    assert (base / "weights.safetensors").read_bytes() == begun
    told = json.loads((made / "recipe.json").read_text())["quantised"]
    assert (told["bits"], told["samples"]) == (6, 16)
    before, after = (kedge.load(folder).plan(HERE).states for folder in (base, made))
    assert after.shape == before.shape
    assert 0 < np.abs(after - before).max() < 2.0
    assert np.abs(after[..., 0, :] - HERE).max() < 1e-5
    code, _, err = run("quantise", str(made))
    assert code == 2
    assert "is quantised already" in err
    code, _, err = run("quantise", str(base), "--bits", "9", "--out", "else")
    assert code == 2
    assert "bits" in err
    assert not Path("else").exists()
