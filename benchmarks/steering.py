"""Measures what steering a trained planner does, way by way: how near plans come to a sketch and to a point, how many
of them cross walls, what an agent that is steered out of a zone scores, and how long a plan takes.

    python benchmarks/steering.py           works off the queue; killed, the same command goes on
    python benchmarks/steering.py --list    what is done, what is to do

Each job is one process of one thread, and leaves `benchmarks/results/steer/<job>.json`, from which the documentation
draws its tables. The planner is the default one in the large maze; it is trained once, into `runs/bench-steer`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from measure import steered
from measure.queue import Benchmark, Kinds

if __name__ == "__main__":
    kinds: Kinds = {"plans": steered.plans, "acted": steered.acted, "times": steered.times}
    sys.exit(Benchmark("steer", Path(__file__), "what steering does", steered.jobs, lambda: kinds).main())
