"""Measures solvers on grids: the error of a walk against its evaluations, on mixtures whose denoiser is known and on a
trained planner, and what the nearest pair is worth in the maze.

    python benchmarks/solvers.py           works off the queue; killed, the same command goes on
    python benchmarks/solvers.py --list    what is done, what is to do

Each job leaves `benchmarks/results/solvers/<job>.json`, from which the documentation draws its figure and its tables.
"""

from __future__ import annotations

import sys
from pathlib import Path

from measure import solvers
from measure.queue import Benchmark, Kinds

if __name__ == "__main__":
    kinds: Kinds = {"errors": solvers.errors, "orders": solvers.orders, "scores": solvers.scores}
    sys.exit(Benchmark("solvers", Path(__file__), "solvers on grids", solvers.jobs, lambda: kinds).main())
