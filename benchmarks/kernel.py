"""Measures the kernel: what walks, each solver and a training step cost beside the bare calls, what is won by walking
in one piece, the order of each solver, and how closely the polynomial weighting follows the exact loss.

    python benchmarks/kernel.py                  # all of it
    python benchmarks/kernel.py --only walk      # a part, put into what is stored of the others

The result is kept in `benchmarks/results/kernel.json`, from which the documentation draws its figures and tables. Peers
are measured in the same run where they are installed (`pip install kedge[bench]`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from measure.order import orders
from measure.record import record
from measure.train_step import step_overhead
from measure.walk_overhead import solver_overhead, walk_overhead
from measure.weighting import weightings
from measure.whole import wholes


def walk() -> dict[str, Any]:
    """What goes on around the network calls: of some walks beside peers, and of every solver."""
    walks, solvers = walk_overhead(), solver_overhead()
    for row in walks:
        print(f"{row['library']:10} {row['walk']:28} {row['us_per_step']:6.1f} us a step")
    for row in solvers:
        each = f"{row['us_per_step']:8.1f} us a step, {row['us_per_call']:8.1f} a call, {row['of_default']:5.2f} of 2M"
        print(f"{row['solver']:56} {each}" + ("" if row["plan_kept"] else ", planned anew in each walk"))
    return {"walk": walks, "solvers": solvers}


def whole() -> dict[str, Any]:
    """Walks in one piece."""
    found = wholes()
    for row in found["rows"]:
        size = f"{row['net']:12} batch {row['batch']:3} {row['how']:9}"
        print(f"{size} {row['ms']:9.3f} ms, {row['ratio']:.2f} of step by step, ready in {row['ready_s']:.0f} s")
    print(*found["absent"], sep="\n")
    return {"whole": found}


def train() -> dict[str, Any]:
    """A step of training."""
    found = step_overhead()
    print(f"training step: {found['ratio']:.3f} of the bare one, {found['ratio_average']:.3f} with a moving average")
    return {"training_step": found}


def order() -> dict[str, Any]:
    """Orders of convergence."""
    found = orders()
    for row in found:
        print(f"{row['path']:20} {row['solver']:28} order {row['order']}, slope {row['slope']:.2f}")
    return {"orders": found}


def weighting() -> dict[str, Any]:
    """The polynomial weighting."""
    found = weightings()
    for row in found:
        arm = f"std {row['std']} {row['regress']:5} {row['smooth']:12} batch {row['batch']:3}"
        print(f"{arm}: {row['distance']:.3f} from the best fit")
    return {"weightings": found}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "walk": walk, "whole": whole, "train": train, "order": order, "weighting": weighting,
}  # fmt: skip


def main() -> None:
    """Runs them, prints what they found, and keeps it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--only", choices=PARTS, help="one part, beside what is stored of the others")
    parser.add_argument("--dry", action="store_true", help="prints, and stores nothing")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for name in [args.only] if args.only else PARTS:
        found |= PARTS[name]()
    if not args.dry:
        print(record("kernel", found, part=args.only))


if __name__ == "__main__":
    main()
