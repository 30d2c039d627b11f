"""Measures the planner FV: its score and what stands beside it, the ablation, other networks, and how fast it plans.

    python benchmarks/fv.py               works off the queue; killed, the same command goes on
    python benchmarks/fv.py --list        what is done, what is to do
    python benchmarks/fv.py --only 'ablation-*-large-0' --jobs 2

Each job is one process of one thread that trains, evaluates and writes `benchmarks/results/fv/<job>.json`, from which
the documentation draws its figures and tables. Half-trained networks are kept in `runs/bench-fv`. A result that was
measured with other settings than the code now has is measured again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from measure.planning import jobs
from measure.queue import Benchmark, Kinds


def kinds() -> Kinds:
    """What does a job."""
    from measure import exact, rates, trained

    return {
        "headline": trained.headline,
        "beside": trained.rows_beside,
        "curve": trained.curve,
        "exact": exact.exact,
        "rates-plans": rates.plans,
        "rates-mazes": rates.mazes,
        "rates-latency": rates.latency,
    }


if __name__ == "__main__":
    sys.exit(Benchmark("fv", Path(__file__), "the planner FV", jobs, kinds).main())
