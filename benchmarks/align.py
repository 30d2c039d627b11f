"""Measures what alignment does to trained planners: score, cost and diversity, before and after.

    python benchmarks/align.py               works off the queue; killed, the same command goes on
    python benchmarks/align.py --list        what is done, what is to do
    python benchmarks/align.py --only 'speed-*' --jobs 2

Each job is one process of one thread, and leaves `benchmarks/results/align/<job>.json`, from which the documentation
draws its tables.
"""

from __future__ import annotations

import sys
from pathlib import Path

from measure.aligned import aligned, jobs
from measure.queue import Benchmark

if __name__ == "__main__":
    what = "what alignment does to planners"
    sys.exit(Benchmark("align", Path(__file__), what, jobs, lambda: {"aligned": aligned}).main())
