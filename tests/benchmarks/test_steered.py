"""What steering is measured on: sketches that a hand could have drawn, and a page that can be drawn at any moment."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kedge.envs import Layout
from kedge.steer import Way

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "docs")]
steered: Any = importlib.import_module("measure.steered")
planning: Any = importlib.import_module("measure.planning")
drawn: Any = importlib.import_module("drawn")
drawn_steer: Any = importlib.import_module("drawn_steer")


def test_sketches_lead_from_cell_to_cell_and_some_cut_walls() -> None:
    layout, rng = Layout.of("large"), np.random.default_rng(0)
    cuts = []
    for _ in range(40):
        line = steered.sketch(layout, rng)
        cells = np.round(line[0]).astype(int)
        assert line.shape == (steered.MOVED + 1, 2)
        assert not layout.walls[tuple(cells)]
        assert (line[0] == cells).all()
        assert (np.abs(np.diff(line, axis=0)).max(1) <= 2.2).all()
        assert np.linalg.norm(steered.pushed(line)) == pytest.approx(steered.PUSH)
        cuts.append(steered.crossing(layout, line[None])[0])
    assert 0.2 < np.mean(cuts) < 0.95


def test_time_in_the_zone_is_counted_until_the_goal() -> None:
    x0, y0, x1, y1 = steered.ZONE
    inside, outside = [(x0 + x1) / 2, (y0 + y1) / 2], [x0 - 1, y0]
    path = np.array([outside, inside, inside, outside, inside, [np.nan, np.nan]])
    assert steered.in_zone(path, 3) == 0.5
    assert steered.in_zone(path, -1) == 0.6


def test_the_page_is_drawn_from_nothing_and_from_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = tmp_path / "drawn"
    pages.mkdir()
    monkeypatch.setattr(drawn, "DRAWN", pages)
    names = ("origin", "sketch", "point", "acted")
    drawn_steer.draw(tmp_path / "none")
    assert {(pages / f"steer_{name}.md").read_text() for name in names} == {drawn_steer.NOTHING}
    assert set(steered.WAYS) | set(steered.LIVED) <= set(drawn_steer.WAYS)
    assert all(isinstance(way, Way) for way in steered.WAYS.values())
    row = {"xi": [1.0, 3.0], "chosen": [0.5, 0.5], "crossing": [0.25, 0.75], "chosen_crossing": [0.0, 0.0]}
    about = {"commit": "0123456789ab", "when": "2026-01-01T00:00", "machine": {"cores": 2, "cpu": "one"}}
    (tmp_path / "plans-sketch.json").write_text(json.dumps({**about, "ways": {"stochastic": row}}))
    (tmp_path / "times.json").write_text(json.dumps({**about, "ways": {"stochastic": {"milliseconds": [1, 2, 90]}}}))
    drawn_steer.draw(tmp_path)
    line = (pages / "steer_sketch.md").read_text().splitlines()[-1]
    assert line == "| stochastic sampling | 2.00 [1.00, 3.00] | 0.50 [0.50, 0.50] | 50 [25, 75] | 0 [0, 0] | 2 |"
    assert (pages / "steer_point.md").read_text() == drawn_steer.NOTHING


def test_jobs_are_named_once_and_times_are_taken_alone() -> None:
    for scale in (planning.FULL, planning.SMOKE):
        jobs = steered.jobs(scale)
        assert len({job.name for job in jobs}) == len(jobs)
        assert [job.name for job in jobs if job.alone] == ["times"]
        assert all(set(steered.SAME) <= set(job.settings) for job in jobs)
