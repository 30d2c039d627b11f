"""Measures planners and cloning in the scripted kitchens: how many of four chores they do, against training steps.

    python benchmarks/kitchen.py           works off the queue; killed, the same command goes on
    python benchmarks/kitchen.py --list    what is done, what is to do
    python benchmarks/kitchen.py --only 'fv-*-0' --jobs 2

Each job is one process of one thread: one training, looked at on the way and in the end. It leaves
`benchmarks/results/kitchen/<job>.json`, from which the documentation draws its table. Demonstrations are made by the
first job and kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

from measure import kitchen
from measure.queue import Benchmark, Kinds

if __name__ == "__main__":
    kinds: Kinds = {"curve": kitchen.curve}
    sys.exit(Benchmark("kitchen", Path(__file__), "planners in the kitchens", kitchen.jobs, lambda: kinds).main())
