"""What solvers are measured on, and a page that can be drawn at any moment."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from kedge.walk.solvers import Unified

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "docs")]
measured: Any = importlib.import_module("measure.solvers")
planning: Any = importlib.import_module("measure.planning")
jobs: Any = importlib.import_module("measure.jobs")
drawn: Any = importlib.import_module("drawn")
drawn_solvers: Any = importlib.import_module("drawn_solvers")

ABOUT = {"commit": "0123456789ab", "when": "2026-01-01T00:00", "machine": {"cores": 2, "cpu": "one"}}


def test_a_budget_is_spent_to_the_last_evaluation_or_not_at_all() -> None:
    heun, single = measured.SOLVERS["Heun"], measured.SOLVERS["DPM-Solver++ 3S"]
    assert [measured.steps_for(heun, budget) for budget in (3, 4, 5)] == [2, None, 3]
    assert {budget: measured.steps_for(single, budget) for budget in (4, 5)} == {4: 2, 5: None}
    assert all(solver.evaluations(9) == 9 for name, solver in measured.SOLVERS.items() if name in measured.TAUGHT)


def test_every_solver_claims_an_order() -> None:
    assert measured.CLAIMED.keys() == measured.SOLVERS.keys()


@pytest.fixture
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SAMPLES": 64, "TEACHER": 40, "TRIES": 36}.items():
        monkeypatch.setattr(measured, name, value)


@pytest.mark.usefixtures("smaller")
def test_errors_fall_with_evaluations_and_levels_matter(tmp_path: Path) -> None:
    told = {"problem": "plane", "solvers": ["DDIM", "Heun"], "grids": ["log-SNR", "gits", "s3"], "budgets": [5, 20]}
    rows = measured.errors(jobs.Job("plane", told), jobs.Store(tmp_path, tmp_path))["rows"]
    found = {(row["solver"], row["grid"]): dict(zip(row["budgets"], row["errors"], strict=True)) for row in rows}
    assert {pair: list(errors) for pair, errors in found.items()} == {
        ("DDIM", "log-SNR"): [5, 20], ("DDIM", "gits"): [5], ("Heun", "log-SNR"): [5], ("Heun", "gits"): [5],
    }  # fmt: skip
    assert found["DDIM", "log-SNR"][20] < 0.4 * found["DDIM", "log-SNR"][5]
    assert abs(found["DDIM", "gits"][5] - found["DDIM", "log-SNR"][5]) > 0.01


def test_a_grid_is_learned_for_solvers_of_one_evaluation_and_few_steps() -> None:
    asked = [("Heun", 5), ("UniPC 2", 5), ("DDIM", measured.FEW + 1)]
    assert [measured.made(None, solver, measured.LEARNED, budget) for solver, budget in asked] == [None] * 3


@pytest.mark.usefixtures("smaller")
def test_the_searched_pair_stands_alone() -> None:
    problem = measured.of_mixture("plane")
    others = [("DDIM", measured.SEARCHED), (measured.UNIFIED, "rho 3")]
    assert [measured.made(problem, *pair, 4) for pair in others] == [None, None]
    solver, grid = measured.made(problem, measured.UNIFIED, measured.SEARCHED, 4)
    assert isinstance(solver, Unified)
    assert len(grid.scales) == 4
    assert problem.error(solver, grid) < problem.error(measured.SOLVERS["DDIM"], measured.GRIDS["rho 3"](problem, 4))


def test_the_nearest_pair_is_of_those_that_can_spend_the_budget() -> None:
    rows = [
        {"solver": "a", "grid": "x", "budgets": [4, 6], "errors": [0.1, 0.01]},
        {"solver": "b", "grid": "y", "budgets": [4, 5], "errors": [0.2, 0.3]},
    ]
    assert measured.best(rows, 4) == {"solver": "a", "grid": "x", "error": 0.1}
    assert measured.best(rows, 5) == {"solver": "b", "grid": "y", "error": 0.3}


def test_the_page_is_drawn_from_nothing_and_from_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = tmp_path / "drawn"
    pages.mkdir()
    monkeypatch.setattr(drawn, "DRAWN", pages)
    drawn_solvers.draw(tmp_path / "none")
    names = ("best", "scores", "pairs", "orders", "errors", "origin")
    assert {(pages / f"solvers_{name}.md").read_text() for name in names} == {drawn_solvers.NOTHING}
    rows = [
        {"solver": "DDIM", "grid": "rho 3", "budgets": [3, 5, 8, 15], "errors": [0.4, 0.3, 0.2, 0.1]},
        {"solver": "UniPC 2", "grid": "ays", "budgets": [3, 5, 8], "errors": [0.5, 0.2, 0.05]},
    ]
    settings = {"scale": "full"}
    (tmp_path / "planner.json").write_text(json.dumps({**ABOUT, "settings": settings, "rows": rows}))
    acted = {"nearest": {"latched": [1.0, 3.0]}, "own": {"latched": [0.0, 2.0]}}
    score = {"pair": {"solver": "UniPC 2", "grid": "ays"}, "rows": acted}
    (tmp_path / "score-5.json").write_text(json.dumps({**ABOUT, "settings": settings, **score}))
    drawn_solvers.draw(tmp_path)
    best, scores, pairs = ((pages / f"solvers_{name}.md").read_text() for name in ("best", "scores", "pairs"))
    assert "DDIM on rho 3: 0.4" in best
    assert "UniPC 2 on ays: 0.05" in best
    assert "+1.0" in scores
    assert "0.200" in pairs
    assert "0.300" in pairs
    assert (pages / "solvers_orders.md").read_text() == drawn_solvers.NOTHING
