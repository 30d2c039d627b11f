"""Loads a server with a hundred clients on this machine, without batching and with it.

    python benchmarks/serve.py

Every answer is compared, bit for bit, with what the agent does in process. The result is kept in
`benchmarks/results/serve.json`, from which the documentation draws its table.
"""

from __future__ import annotations

import argparse

import torch
from measure.record import record
from measure.serving import serving


def main() -> None:
    """Runs all arms and prints what they found."""
    given = argparse.ArgumentParser()
    given.add_argument("--clients", type=int, default=100)
    torch.set_num_threads(1)
    rows = serving(given.parse_args().clients)
    for row in rows:
        print(
            f"{row['agent']:8} batch {row['batch']:3}: {row['rate']:7.1f} actions a second, p50 {row['p50']:.1f} ms, "
            f"p95 {row['p95']:.1f}, p99 {row['p99']:.1f}; lost {row['lost']}, mixed up {row['mixed_up']}, "
            f"wrong {row['wrong']}"
        )
    print(record("serve", {"serving": rows}))


if __name__ == "__main__":
    main()
