"""The kernel's measurements: every solver has a row, by its own calls, and a part is stored beside the others."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "docs")]
overhead: Any = importlib.import_module("measure.walk_overhead")
record: Any = importlib.import_module("measure.record")
drawn: Any = importlib.import_module("drawn")


def test_solvers_are_timed_by_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "ALL", dict.fromkeys(["Heun()", "DPMSolverPP(2)"]))
    monkeypatch.setattr(overhead, "APART", {"LinearMultistep": "LinearMultistep()"})
    monkeypatch.setattr(overhead.Timed, "excess", lambda self: 80.0 * self.calls)
    rows = {row["solver"]: row for row in overhead.solver_overhead()}
    assert {name: row["calls"] for name, row in rows.items()} == {
        "Heun()": 39, "DPMSolverPP(2)": 20, "LinearMultistep()": 20,
    }  # fmt: skip
    assert rows["Heun()"]["us_per_step"] == pytest.approx(80 * 39 / 20)
    assert all(row["us_per_call"] == 80 and row["of_default"] == 1 and row["plan_kept"] for row in rows.values())


def test_a_part_is_stored_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    record.record("kernel", {"walk": 1, "orders": 2})
    first = json.loads((tmp_path / "kernel.json").read_text())
    record.record("kernel", {"walk": 3}, part="walk")
    found = json.loads((tmp_path / "kernel.json").read_text())
    assert (found["walk"], found["orders"]) == (3, 2)
    assert found["commit"] == first["commit"]
    assert found["parts"]["walk"].keys() == {"commit", "machine", "versions"}


def test_what_is_not_measured_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "DRAWN", tmp_path)
    drawn.draw_solver_costs([])
    drawn.draw_whole({})
    assert (tmp_path / "solver_costs.md").read_text() == (tmp_path / "whole.md").read_text() == drawn.NOTHING
    row = {"solver": "Heun()", "calls": 39, "us_per_call": 11.6, "us_per_step": 22.7, "of_default": 0.66}
    drawn.draw_solver_costs([row | {"plan_kept": True}, row | {"solver": "Own()", "plan_kept": False}])
    text = (tmp_path / "solver_costs.md").read_text()
    assert "| `Heun()` | 39 | 12 | 23 | 0.7 |" in text
    assert "| `Own()` | 39 | 12 | 23 | 0.7, planned in each walk |" in text
    way = {"net": "U-Net", "batch": 64, "how": "compiled", "ms": 1.234, "ratio": 0.5, "ready_s": 61.2}
    drawn.draw_whole({"device": "cpu", "rows": [way], "absent": ["no GPU here"]})
    text = (tmp_path / "whole.md").read_text()
    assert "| U-Net | 64 | compiled | 1.23 | 0.50 | 61 s |" in text
    assert text.endswith("\nNo GPU here.\n")
