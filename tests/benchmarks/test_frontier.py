"""Where everything is known: what is measured of which method, and what the page says of it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "docs")]
chain: Any = importlib.import_module("measure.chain")
frontier: Any = importlib.import_module("measure.frontier")
planning: Any = importlib.import_module("measure.planning")
jobs: Any = importlib.import_module("measure.jobs")
drawn: Any = importlib.import_module("drawn")
drawn_align: Any = importlib.import_module("drawn_align")

STORED = jobs.Store(ROOT / "benchmarks" / "results" / "align", ROOT / "runs")
ALL = {job.name: job for job in frontier.jobs(planning.FULL)}
CHAIN = {name: STORED.read(f"chain-{name}")["rows"] for name in frontier.METHODS if name not in frontier.DENOISED}
TILTING = {name: rows for name, rows in CHAIN.items() if frontier.METHODS[name].tilts}
EXACT = [name for name in TILTING if name.startswith("vmpo") and name != "vmpo-plugged"]


def of(name: str, what: str, **at: float) -> list[float]:
    """A figure of a method, in all rows of the chain that are so."""
    return [row[what] for row in CHAIN[name] if all(row.get(key) == value for key, value in at.items())]


def test_each_method_is_measured_on_each_law_that_it_can_be_said_of() -> None:
    assert len(ALL) == 2 * len(frontier.METHODS) - len(frontier.DENOISED)
    assert {scene for job in ALL.values() for scene in job.settings["scenes"]} == set(frontier.SCENES)
    assert set(drawn_align.METHODS) == set(frontier.METHODS)
    assert {name: odd for name, job in ALL.items() if (odd := STORED.odd(job))} == {}, "stored with other settings"


def test_a_small_job_measures_every_kind_of_method(tmp_path: Path) -> None:
    small = {job.name: job for job in frontier.jobs(planning.SMOKE)}
    assert small.keys() == ALL.keys()
    for name in ("chain-sdpo", "chain-b2", "chain-vmpo-flow"):
        found = frontier.frontier(small[name], None)
        assert {row["scene"] for row in found["rows"]} == {"chain"}
        assert all(row["from_before"] > 0 for row in found["rows"])


def test_the_page_is_drawn_from_nothing_and_from_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "DRAWN", tmp_path)
    results = {name: found for name in ALL if name != "frontier-awm" and (found := STORED.read(name)) is not None}
    pieces = ("align_frontier", "align_frontier_one", "align_frontier_chain")
    wanted = {*pieces, "align_frontier_figure", "align_frontier_chain_figure"}
    page = (ROOT / "docs" / "align.md").read_text()
    assert all(f"_drawn/{name}.md" in page for name in wanted)
    for these in ({}, results):
        drawn_align.draw_frontier(these)
        found = {name: (tmp_path / f"{name}.md").read_text() for name in wanted}
        assert {text == drawn_align.NOTHING for text in found.values()} == {not these}
    line = next(line for line in found["align_frontier_chain"].splitlines() if "leave-one-out |" in line)
    near = of("vmpo", "from_tilt", beta=0.25)
    assert f" {np.mean(near):.2g} ({min(near):.2g} to {max(near):.2g}) " in line
    assert "AWM" not in found["align_frontier_chain"]
    assert "matching (AWM)" in found["align_frontier"].split("Missing: ")[1]


@pytest.mark.parametrize("name", EXACT)
def test_the_corners_are_as_near_as_the_page_says(name: str) -> None:
    assert max(of(name, "from_tilt")) < 0.0015
    assert max(map(abs, of(name, "bias"))) < 0.004
    assert max(of(name, "spread")) < 0.003
    begun = float(chain.SHARES @ (chain.WORTH / 0.25) ** 2 - (chain.SHARES @ chain.WORTH / 0.25) ** 2)
    assert begun == pytest.approx(2.8, abs=0.05), "the variance of r / beta, as long as the model has not moved"


def test_two_have_an_end_of_their_own_as_the_page_says() -> None:
    for name in ("vmpo-plugged", "dpok"):
        assert max(of(name, "from_tilt", beta=1.0)) < 0.01
        assert 0.065 < np.mean(of(name, "from_tilt", beta=0.25)) < 0.085
    assert len(TILTING) == len(EXACT) + 2


def test_without_a_temperature_the_reward_alone_counts_as_the_page_says() -> None:
    """And variety makes the two wanted states alike, of which one was twice as likely."""
    for name in set(CHAIN) - set(TILTING):
        last = [row for row in CHAIN[name] if row["step"] == frontier.MOMENTS[-1]]
        assert min(row["reward"] for row in last) > 0.96
        assert min(row["from_before"] - row["least"] for row in last) > 0.05
        ratios = [row["shares"][2] / row["shares"][3] for row in last]
        varied = name in ("setpo", "dpp")
        assert all((0.75 < ratio < 1.35) if varied else ratio > 1.5 for ratio in ratios), (name, ratios)
