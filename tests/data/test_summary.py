"""A summary says what is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import kedge.data
from data.logs import logs_of
from kedge.data import Trajectories, summary


def test_it_counts_and_measures(tmp_path: Path) -> None:
    rewards = np.zeros(30)
    rewards[[3, 4, 29]] = 1
    rewards[15] = -1
    logs = logs_of([5, 15, 10], rewards=rewards, provenance={"from": "here", "seed": 3}, goal=np.zeros((30, 2), int))
    found = summary(kedge.data.open(logs.save(tmp_path / "x")))
    assert (found.steps, found.episodes) == (30, 3)
    assert (found.lengths.shortest, found.lengths.median, found.lengths.longest) == (5, 10.0, 15)
    assert found.rewarded == 0.1
    assert found.successful == 2 / 3
    assert found.columns == {
        "observations": "float32, 4 a step",
        "actions": "float32, 2 a step",
        "rewards": "float32, one a step",
        "goal": "int64, 2 a step",
    }
    assert [(r.column, r.dimension) for r in found.ranges[-2:]] == [("actions", 1), ("rewards", 0)]
    first = found.ranges[0]
    assert (first.low, first.high, first.mean) == (0.0, 29.0, 14.5)
    assert first.std == np.arange(30.0).std()
    assert found.digest == logs.digest


def test_its_rows_and_json() -> None:
    logs = logs_of([5, 15], provenance={"seed": 3})
    rows = dict(summary(logs).lines())
    assert rows["steps"] == "20"
    assert rows["lengths"] == "5 to 15 steps, median 10"
    assert rows["observations[0]"] == "0 to 19, mean 9.5, deviation 5.766"
    assert rows["infinite or nan"] == "none"
    assert rows["provenance: seed"] == "3"
    read = json.loads(json.dumps(summary(logs).json(), allow_nan=False))
    assert read["lengths"] == {"shortest": 5, "median": 10.0, "longest": 15}
    assert read["ranges"][0]["high"] == 19.0


@pytest.mark.parametrize("rewarded", [True, False])
def test_it_looks_at_data_that_nothing_else_takes(rewarded: bool) -> None:
    holes = np.arange(8.0).reshape(4, 2)
    holes[1, 0], holes[:, 1] = np.inf, np.nan
    rewards = np.ones(4) if rewarded else None
    found = summary(Trajectories.of(holes, np.zeros((4, 1)), [4], rewards, finite=False))
    assert found.nonfinite == {"observations": 5}
    assert (found.ranges[0].low, found.ranges[0].high) == (0.0, 6.0)
    assert found.ranges[1].low is None
    rows = dict(found.lines())
    assert rows["infinite or nan"] == "5 in observations"
    assert rows["observations[1]"] == "no finite number"
    assert ("rewarded" in rows) == rewarded
    assert rows.get("rewards") == (None if rewarded else "none noted")
    json.dumps(found.json(), allow_nan=False)
