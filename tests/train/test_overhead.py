"""What the trainer costs: the benchmark's own measurement, in a process without the annotation checks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import json, sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from measure.train_step import step_overhead
print(json.dumps(step_overhead()))
"""


@pytest.mark.slow
def test_a_step_costs_at_most_a_tenth_more_than_by_hand() -> None:
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    command = [sys.executable, "-c", MEASURE, str(benchmarks)]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=110).stdout)
    assert 400_000 < figures["parameters"] < 600_000
    assert figures["ratio"] <= 1.10
    assert figures["ratio_average"] <= 1.10
