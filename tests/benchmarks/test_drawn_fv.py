"""The page of FV can be drawn at any moment: from nothing, from a few results, from all of them."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "docs")]
jobs: Any = importlib.import_module("measure.jobs")
planning: Any = importlib.import_module("measure.planning")
drawn: Any = importlib.import_module("drawn")
drawn_exact: Any = importlib.import_module("drawn_exact")
drawn_fv: Any = importlib.import_module("drawn_fv")

LEVELS = np.linspace(-3, 3, 7)
PLANS = {
    "plans": 9, "executed_prefixes_crossing": 0.125, "followed_parts_crossing": 0.125,
    "whole_plans_crossing": 0.25, "plans_over_reach": 0.0,
    "largest_step": 0.5, "start_gap_mean": 1e-7, "tracking_mean": 0.1, "off_path_mean": 0.01,
}  # fmt: skip


def outcome(score: float, episodes: int = 6) -> dict[str, Any]:
    latched = [
        score + ((-1) ** k if k < 4 else 9) for k in range(episodes)
    ]  # the starts that only the last one has differ
    return {"latched": latched, "raw": latched, "success": 1.0, "feasibility": PLANS, "planning": {}}


def invented(job: Any, score: float) -> dict[str, Any]:
    """A result of the right shape."""
    kind = job.settings["kind"]
    if kind == "headline":
        rows = [(step, x) for step in (1, 10, 100) for x in LEVELS]
        columns = {"step": [s for s, _ in rows], "log_sigma": [x for _, x in rows], "log_loss": [x for _, x in rows]}
        return {
            "training": {"cpu": 9.0},
            "outcome": outcome(score),
            "landscape": columns | {"fitted": [None] + [0.0] * (len(rows) - 1)},
        }
    if kind == "beside":
        latched = {"mean": 1.0, "low": 0.5, "high": 1.5}
        rows = [{"key": "controller", "label": "the controller", "said": "", "latched": latched, "outcome": outcome(1)}]
        return {"rows": rows}
    if kind == "curve":
        return invented_curve(job.settings, score)
    if kind == "exact":
        rows = [
            {"arm": arm, "seed": seed, "nats": nats * (1 + seed), "excess": (LEVELS + 4).tolist()}
            for arm, nats in {"uniform": 2.0, "min-snr": 2.0, "head": 2.0, "polynomial": 1.0}.items()
            for seed in range(2)
        ]
        return {"scale": np.exp(LEVELS).tolist(), "least": (LEVELS + 5).tolist(), "rows": rows}
    if kind == "rates-plans":
        row = {"plans_per_second": 9.0, "ratio_plans": 2.0, "decisions_per_second": 3.0, "ratio_decisions": 4.0}
        return {"rows": [{"arm": "FV", "candidates": 64, **row}]}
    if kind == "rates-mazes":
        return {"copies": 64, "steps_per_second": {"kedge": 9000.0, "gymnasium": 3000.0}, "ratio": 3.0}
    return {"candidates": 64, "median": 0.05, "p5": 0.04, "p95": 0.06}


def invented_curve(settings: dict[str, Any], score: float) -> dict[str, Any]:
    """It rises by as much at every checkpoint, to its score."""
    points = []
    count = len(settings["checkpoints"])
    for k, step in enumerate(settings["checkpoints"], 1):
        last = k == count
        names = [*settings["walks"], *(settings["at_last"] if last else [])]
        held_out = {
            "log_sigma": LEVELS.tolist(),
            "log_loss": (LEVELS - k / 10).tolist(),
            "fitted": [None] * len(LEVELS),
        }
        walks = {name: outcome(score * k / count, 6 if last else 4) for name in names}
        points.append({"step": step, "cpu": 7.0 * k, "wall": 8.0, "walks": walks, "held_out": held_out, "critic": "a"})
    return {"checkpoints": points, "parameters": {"planner": 540_000, "critic": 1}}


def score_of(job: Any) -> float:
    """So that differences are known: the polynomial is 20 above uniform, whatever the seed."""
    bonus = {"polynomial": 20.0, "head": 10.0}.get(job.settings.get("arm", ""), 0.0)
    return 100 + bonus + 3 * job.settings.get("seed", 0)


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(drawn, "DRAWN", tmp_path / "drawn")
    (tmp_path / "drawn").mkdir()

    def draw(keep: Any) -> dict[str, str]:
        for job in planning.jobs():
            if keep(job):
                origin = {
                    "commit": "0" * 40, "machine": {"cpu": "one", "cores": 2}, "versions": {"kedge": "0"},
                    "when": "2030-01-02T00:00:00", "settings": job.settings,
                }  # fmt: skip
                jobs.written(tmp_path / f"{job.name}.json", origin | invented(job, score_of(job)))
        drawn_fv.draw(tmp_path)
        return {path.stem: path.read_text() for path in (tmp_path / "drawn").glob("*.md")}

    return draw


def included() -> set[str]:
    """The pieces that the page wants."""
    lines = (ROOT / "docs" / "fv.md").read_text().splitlines()
    return {line.split("/")[1].removesuffix(".md") for line in lines if "{include} _drawn/" in line}


def row(text: str, name: str) -> list[str]:
    return next([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if f"| {name} |" in line)


def test_nothing_measured(pages: Any) -> None:
    found = pages(lambda job: False)
    assert included() <= set(found)
    assert f"Missing, {len(planning.jobs())} of {len(planning.jobs())}" in found["fv_missing"]
    assert "vp-large (seeds 0, 1, 2, 3, 4); uniform-large (seeds" in found["fv_missing"]
    assert "- rates: plans; mazes; latency" in found["fv_missing"]
    assert "fv-large (seeds 0, 1, 2); beside-large; fv-medium" in found["fv_missing"]
    assert found["fv_scores"] == found["fv_curves"] == drawn_fv.NOTHING


def test_everything_measured(pages: Any) -> None:
    found = pages(lambda job: True)
    assert included() <= set(found)
    assert drawn_fv.NOTHING not in found.values()
    assert not any("missing" in text for name, text in found.items() if name != "fv_missing")
    assert found["fv_missing"] == "Every job has a result.\n"
    polynomial = row(found["fv_ablation"], "+ polynomial (gamma, statistics)")
    assert polynomial[1].startswith("129.0 ["), "100 + 20, 6 for seeds 0 to 4, 3 for the last two of six starts"
    assert polynomial[2].startswith("+20.0 [+20.0, +20.0]")
    assert float(polynomial[3]) == 0.0625, "two of the 32 patterns of signs"
    steps = 0.85 * planning.ABLATION["steps"]  # between .75 and 1 of the run it goes from 5/6 to all of its score
    assert polynomial[5] == f"{steps:.0f} ({steps:.0f} to {steps:.0f})"
    assert polynomial[6:] == ["12.5%", "25.0%", "42", "5"]
    assert row(found["fv_contrasts"], "its regression")[3].startswith("-20.0 [")
    assert row(found["fv_scores"], "**FV**, latched")[1].startswith("106.0 [")
    assert row(found["fv_exact"], drawn_exact.NAMES["steep"])[4] == "1.5, -50 % (-50 to -50)", "half, with each seed"
    assert row(found["fv_veteran"], "FV, latched, the same 6 starts")[1].startswith("106.0 [")


def test_critics_that_differ_are_told(pages: Any, tmp_path: Path) -> None:
    found = pages(lambda job: job.name in ("ablation-head-large-3", "ablation-uniform-large-3"))
    assert "were the same, bit for bit" in found["fv_ablation"]
    path = tmp_path / "ablation-head-large-3.json"
    tree = json.loads(path.read_text())
    tree["checkpoints"][1]["critic"] = "b"
    path.write_text(json.dumps(tree))
    assert "not the same with seeds 3." in pages(lambda job: False)["fv_ablation"]


def test_what_is_missing_is_named_and_pairs_are_of_the_same_seeds(pages: Any) -> None:
    found = pages(lambda job: job.name.startswith("ablation-") and (job.settings["seed"], job.settings["arm"]) in PART)
    polynomial = row(found["fv_ablation"], "+ polynomial (gamma, statistics)")
    assert polynomial[1].startswith("124.5 ["), "its own two seeds"
    assert polynomial[2].startswith("+20.0 [+20.0, +20.0], indicative"), "the seed that both have"
    assert polynomial[-1] == "2 of 5"
    assert row(found["fv_ablation"], "+ learned head")[1] == "missing"
    for said in (
        "- ablation: vp-large (seeds 0, 1, 2, 3, 4)",
        " uniform-large (seeds 1, 2, 3, 4)",
        " polynomial-large (seeds 2",
    ):
        assert said in found["fv_missing"]


PART = {(0, "polynomial"), (1, "polynomial"), (0, "uniform")}


def test_results_with_other_settings_are_shown_and_told(pages: Any, tmp_path: Path) -> None:
    pages(lambda job: job.name == "rates-latency")
    path = tmp_path / "rates-latency.json"
    tree = json.loads(path.read_text())
    tree["settings"]["rounds"] = 99
    path.write_text(json.dumps(tree))
    found = pages(lambda job: False)
    assert "rates-latency: rounds 99 there" in found["fv_missing"]
    pages(lambda job: job.name in ("ablation-uniform-large-0", "ablation-head-large-0"))
    path = tmp_path / "ablation-head-large-0.json"
    tree = json.loads(path.read_text())
    tree["settings"]["candidates"] = 99
    path.write_text(json.dumps(tree))
    found |= pages(lambda job: False)
    assert row(found["fv_ablation"], "+ learned head")[1] == "missing", "arms are compared with equal settings only"
    assert "50.0 ms" in found["fv_other_rates"]
