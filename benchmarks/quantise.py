"""Measures what a planner loses and gains in few bits: its score, episode by episode beside the floats', how far its
estimates are off, its size, and the time of a plan.

    python benchmarks/quantise.py RUN

RUN is the folder of a planner that was trained in a maze. The result is kept in `benchmarks/results/quantise.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from measure.quantised import measured
from measure.record import record


def main() -> None:
    """Runs it and prints what it found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("run", type=Path, help="the folder of a trained planner")
    parser.add_argument("--episodes", type=int, default=200, help="of each planner")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each way to plan")
    args = parser.parse_args()
    found = measured(args.run, args.episodes, args.rounds)
    watched = ("src", "benchmarks/quantise.py", "benchmarks/measure/quantised.py")
    print(record("quantise", found, watched, ("kedge", "torch", "numpy", "torchao")))


if __name__ == "__main__":
    main()
