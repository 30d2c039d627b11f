"""Processes that train one run, started as torchrun starts them, and what they leave in their folder."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from kedge.train import load_tree
from kedge.train.checkpoint import split


def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def launched(script: Path, size: int, *args: object) -> list[subprocess.Popen[str]]:
    """`size` processes of a script."""
    told = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port(), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(script), *(str(arg) for arg in args)],
            env={**os.environ, **told, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def until(there: Path, pair: list[subprocess.Popen[str]]) -> None:
    """Waits for a file, as long as both run."""
    deadline = time.monotonic() + 90
    while not there.exists() and time.monotonic() < deadline and all(one.poll() is None for one in pair):
        time.sleep(0.01)


def table(run: Path) -> tuple[list[str], Tensor]:
    """The figures of a run but for the time."""
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name != "seconds"]
    return names, torch.tensor([[float(row[name] or "nan") for name in names] for row in rows], dtype=torch.float64)


def states(run: Path, step: int) -> tuple[dict[str, object], dict[str, Tensor]]:
    words, tensors = split(load_tree(run / "state" / f"step-{step:08d}"))
    return {**words, "seconds": 0}, tensors
