"""`kedge grid`: fitted, stored beside the weights, listed, and walked over by an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kedge
from kedge.disk import read_json
from kedge.distill import grids_of, load_grid, save_grid
from kedge.errors import InputError
from kedge.plan import Planner
from kedge.recipes.grid import on_fitted
from kedge.walk.grids import Fitted
from run.program import program

TINY = ("--steps", "2", "--batch", "4", "--width", "8", "--atlas", "4", "--candidates", "4", "--horizon", "8")


def test_a_grid_is_fitted_listed_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEDGE_CACHE", str(tmp_path / "cache"))
    run, base = program(capsys), Path("runs/fv-umaze")
    assert run("train", "fv", "--env", "maze2d-umaze", "--demonstrations", "3000", *TINY)[0] == 0
    weights = (base / "weights.safetensors").read_bytes()
    assert "has no fitted grid" in run("grid", "list", str(base))[1]
    code, out, err = run("grid", "fit", str(base), "--steps", "3", "--samples", "8")
    assert code == 0, err
    assert out.startswith(f"fitted: {base}/grids/gits-3.safetensors, {base}/grids/gits-3.json\n")
    assert f"next: kedge eval {base} --grid gits-3" in out
    assert (base / "weights.safetensors").read_bytes() == weights
    grid, about = load_grid(base, "gits-3")
    agent = kedge.load(base)
    own = agent.proposer.grid.levels(agent.proposer.denoiser.path).t[0]
    assert agent.proposer.denoiser.path.time_at(grid.scales[0]) == pytest.approx(own)
    assert len(grid.scales) == 3
    assert {"fitted", "the recipe's", "rho 7", "uniform"} <= set(about["errors"])
    planner = on_fitted(agent, grid).proposer
    assert isinstance(planner, Planner)
    assert planner.grid == grid
    code, out, _ = run("grid", "list", str(base), "--json")
    assert list(json.loads(out)["grids"]) == ["gits-3"]
    code, out, err = run("eval", str(base), "--grid", "gits-3", "--episodes", "2", "--alone", "--first-seed", "0")
    assert code == 0, err
    assert "other weights" not in err
    assert read_json(base / "evaluation.json")["overrides"]["grid"].startswith("gits-3 ")
    code, _, err = run("eval", str(base), "--grid", "gits-4", "--episodes", "2")
    assert code == 2
    assert "has no grid 'gits-4'; it has gits-3" in err


ABOUT: dict[str, object] = {
    "method": "ld3", "steps": 2, "solver": "DDIM()", "seed": 0, "samples": 1, "agent": "FV", "low": 0.1, "high": 9.0,
    "errors": {},
}  # fmt: skip


def test_a_grid_is_stored_and_comes_back(tmp_path: Path) -> None:
    one, two = Fitted((9.0, 1.0 / 3), (8.0, 0.25)), Fitted((9.0, 0.1))
    save_grid(tmp_path, "one", one, ABOUT)
    save_grid(tmp_path, "two", two, {**ABOUT, "method": "gits"})
    assert grids_of(tmp_path) == ["one", "two"]
    assert load_grid(tmp_path, "one")[0] == one
    found, about = load_grid(tmp_path, "two")
    assert found == two
    assert about == {**ABOUT, "method": "gits", "scales": [9.0, 0.1], "told": []}


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "a" * 65])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="a grid's name has letters"):
        save_grid(tmp_path, name, Fitted((1.0,)), {})


def test_what_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no grid 'x'; it has none"):
        load_grid(tmp_path, "x")
    paths = save_grid(tmp_path, "x", Fitted((2.0, 1.0)), ABOUT)
    paths[0].write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"x\.safetensors cannot be used .*; fit it again"):
        load_grid(tmp_path, "x")
    paths[1].write_text('{"scales": "many"}')
    with pytest.raises(InputError, match=r"x\.json cannot be used \(scales is not a list\); fit it again"):
        load_grid(tmp_path, "x")


@pytest.mark.parametrize(
    ("scales", "told"), [((), ()), ((1.0, 2.0), ()), ((1.0, 0.0), ()), ((2.0, 1.0), (1.0,)), ((2.0,), (0.0,))]
)
def test_impossible_scales_are_refused(scales: tuple[float, ...], told: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"^Fitted: "):
        Fitted(scales, told)


@pytest.mark.parametrize(
    "words", [("grid", "fix", "runs/x"), ("grid", "fit", "runs/none"), ("grid", "list", "runs/none")]
)
def test_usage_is_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    code, _, err = program(capsys)(*words)
    assert code == 2
    assert len(err.splitlines()) == 1
