"""Measures what a planner costs in other runtimes: the whole walk, and its denoiser alone, as eager torch, compiled by
torch, and in onnxruntime; and how far each is from the planner itself.

    python benchmarks/export.py RUN

RUN is the folder of a trained planner. The runtimes take turns, so that whatever else the machine does falls on all of
them alike; the ratio to eager is of each turn. The result is kept in `benchmarks/results/export.json`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from measure.export import exported
from measure.record import record


def main() -> None:
    """Runs it and prints what it found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("run", type=Path, help="the folder of a trained planner")
    parser.add_argument("--rounds", type=int, default=200, help="turns of each runtime")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = exported(args.run, Path(folder), args.rounds)
    for row in found["rows"]:
        print(
            f"{row['graph']:9} batch {row['batch']:3} {row['runtime']:12} {row['ms']:8.2f} ms, "
            f"{row['ratio']:.2f} of eager, off by {row['difference']:.1g}"
        )
    watched = ("src", "benchmarks/export.py", "benchmarks/measure/export.py")
    packages = ("kedge", "torch", "numpy", "onnx", "onnxruntime")
    print(record("export", found, watched, packages))


if __name__ == "__main__":
    main()
