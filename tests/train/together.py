"""A run that one process trains, or two that share its batches: `python together.py FOLDER`, with torchrun's variables.

Denoising with a weighting that regresses over the batch and levels that are stratified over it, and a second part with
a cadence and repeats of its own: all that could tell a share from the whole. The second process speaks on standard
output, the first on standard error alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kedge
from kedge.fit import DenoisingLoss, weightings
from kedge.train import AdamW, Batches, CrewError, Part, Shadow, Tick, Trainer

STEPS, SLOW = 12, 100_000


class Dropped(nn.Module):
    """A net with dropout, whose masks are not keyed by sample."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Dropout(p), nn.Linear(16, 3))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """The level is one more number."""
        return self.net(torch.cat([x, told[:, None]], 1))


def trainer(run: Path | None, steps: int = STEPS, p: float = 0.0, delay: float = 0.0, **more: Any) -> Trainer:
    """In double precision: what is left of a difference is rounding."""
    torch.manual_seed(5)
    path = kedge.paths.Trig(sigma_data=1.0)
    fit = DenoisingLoss(kedge.Denoiser(Dropped(p), path, "trig"), weighting=weightings.Polynomial(degree=2)).double()
    critic = nn.Linear(3, 1).double()

    def judged(batch: Tensor, tick: Tick) -> tuple[Tensor, dict[str, Tensor]]:
        time.sleep(delay)
        z = tick.noise(len(batch)).normal(batch.shape, tick.step)
        error = (critic(batch + 0.1 * z)[:, 0] - batch[:, 0] ** 2) ** 2
        largest = tick.whole(error)[0].max()
        return error / tick.whole(error)[0].mean(), {"largest": largest}

    parts = [
        fit.part(AdamW(1e-2, warmup=3), name="fit", shadows=(Shadow(0.9),)),
        Part(critic, judged, AdamW(1e-2), every=2, repeat=2, name="critic", shared=True),
    ]
    data = torch.sin(torch.arange(300, dtype=torch.float64) ** 1.5).reshape(100, 3)
    options: dict[str, Any] = {"checkpoint_every": 5, "checkpoint_seconds": None} | more
    return Trainer(parts, Batches(data, 12, seed=2), steps, run, log_every=1, progress=False, **options)


def stopped(folder: Path) -> int | None:
    """A run that would take long: the exit code that it was stopped with."""
    try:
        trainer(folder, SLOW, delay=0.002, checkpoint_every=None).train()
    except SystemExit as stop:
        return int(stop.code or 0)
    return None


def main(folder: Path) -> None:
    """One thing after another; each that the test answers with a signal is announced by a file."""
    torch.set_num_threads(1)
    trainer(folder / "plain").train()
    trainer(folder / "accumulated", accumulate=3).train()
    trainer(folder / "whole", 24, p=0.3).train()
    trainer(folder / "broken", 12, p=0.3).train()
    trainer(folder / "broken", 24, p=0.3).train()
    first = os.environ.get("RANK") == "0"
    found: dict[str, Any] = {"interrupted": stopped(folder / "slow")}
    try:
        drifted = trainer(None, 3)
        drifted.updaters[0].parameters[0].data.add_(0.0 if first else 1.0)
        drifted.train()
    except CrewError as error:
        found["drifted"] = str(error)
    if not first:
        print(json.dumps(found), flush=True)
    (folder / f"ready-{os.environ['RANK']}").touch()
    try:
        stopped(folder / "slow")
    except CrewError as error:
        sys.exit(f"kedge: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
