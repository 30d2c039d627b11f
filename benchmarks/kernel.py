"""Measures the kernel: what a walk and a training step cost beside the bare calls, the order of each solver, and how
closely the polynomial weighting follows the exact loss.

    python benchmarks/kernel.py

The result is kept in `benchmarks/results/kernel.json`, from which the documentation draws its figures and tables. Peers
are measured in the same run where they are installed (`pip install kedge[bench]`).
"""

from __future__ import annotations

from measure.order import orders
from measure.record import record
from measure.train_step import step_overhead
from measure.walk_overhead import walk_overhead
from measure.weighting import weightings


def main() -> None:
    """Runs all four and prints what they found."""
    walks = walk_overhead()
    for row in walks:
        print(f"{row['library']:10} {row['walk']:28} {row['us_per_step']:6.1f} us a step")
    training = step_overhead()
    print(
        f"training step: {training['ratio']:.3f} of the bare one, {training['ratio_average']:.3f} with a moving average"
    )
    solvers = orders()
    for row in solvers:
        print(f"{row['path']:20} {row['solver']:28} order {row['order']}, slope {row['slope']:.2f}")
    fits = weightings()
    for row in fits:
        arm = f"std {row['std']} {row['regress']:5} {row['smooth']:12} batch {row['batch']:3}"
        print(f"{arm}: {row['distance']:.3f} from the best fit")
    print(record("kernel", {"walk": walks, "training_step": training, "orders": solvers, "weightings": fits}))


if __name__ == "__main__":
    main()
