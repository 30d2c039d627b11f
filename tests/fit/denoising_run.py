"""A denoiser in training, in a process of its own, to be killed: `python denoising_run.py FOLDER DELAY`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor

import kedge
from kedge.fit import DenoisingLoss
from kedge.fit.weightings import Polynomial
from kedge.train import AdamW, Batches, Trainer


class Slowed(DenoisingLoss):
    """The loss, with time to be killed in."""

    delay = 0.0

    def forward(self, batch: Tensor, tick: kedge.train.Tick) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a little later."""
        time.sleep(self.delay)
        return super().forward(batch, tick)


def trainer(run: Path, delay: float = 0.0) -> Trainer:
    """The run, from scratch or from what the folder holds."""
    torch.manual_seed(0)
    denoiser = kedge.Denoiser(kedge.nets.MLP(2, width=16), kedge.paths.Trig(0.5), "trig")
    loss = Slowed(denoiser, weighting=Polynomial())
    loss.delay = delay
    data = kedge.exact.GaussianMixture([0.5, 0.5], torch.tensor([[-0.5, 0.0], [0.5, 0.0]]), [0.01, 0.01]).sample(
        100, seeds=0, dtype=torch.float32
    )
    part = loss.part(AdamW(3e-3, warmup=20, decay="cosine"))
    return Trainer([part], Batches(data, 16, seed=3), 150, run, log_every=1, checkpoint_every=20)


if __name__ == "__main__":
    trainer(Path(sys.argv[1]), float(sys.argv[2])).train()
