"""A run in a process of its own, to be killed: `python resumable.py FOLDER OPTIMISER STEPS DELAY INITIAL`.

The network has dropout (torch's generator), the loss draws keyed noise and keeps statistics in the buffers of another
module, and a second part has a cadence and a target network of its own. INITIAL seeds the initial weights alone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from kedge.train import AdamW, Batches, Muon, Part, Shadow, Tick, Trainer


class Statistics(nn.Module):
    """Running mean of the error and a counter: what a fitted weighting keeps."""

    mean: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(3))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


def trainer(run: Path, optimiser: str, steps: int, delay: float = 0.0, initial: int = 0) -> Trainer:
    """The run, from scratch or from what the folder holds."""
    torch.manual_seed(initial)
    model = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Dropout(0.2), nn.BatchNorm1d(16), nn.Linear(16, 3))
    critic = nn.Linear(3, 1)
    statistics = Statistics()
    target = Shadow(0.9, warmup=False, every=2)

    def loss(batch: dict[str, Tensor], tick: Tick) -> tuple[Tensor, dict[str, Tensor | float]]:
        time.sleep(delay)
        noise = tick.noise(len(batch["x"])).normal(batch["x"].shape, step=tick.step, dtype=torch.float32)
        error = (model(batch["x"] + 0.1 * noise) - batch["y"]) ** 2
        statistics.mean.lerp_(error.detach().mean(0), 0.05)
        statistics.seen.add_(1)
        return (error / statistics.mean).mean(1), {"first": float(statistics.mean[0])}

    def judged(batch: dict[str, Tensor], tick: Tick) -> tuple[Tensor, dict[str, Tensor | float]]:
        aim = target.module(batch["y"].roll(1, 0))
        return ((critic(batch["y"]) - 0.9 * aim - batch["x"][:, :1]) ** 2).mean(), {"aim": aim.mean()}

    spec = {"adamw": AdamW(3e-3, warmup=20, decay="cosine"), "muon": Muon(3e-3, warmup=20, decay="cosine")}[optimiser]
    x = torch.linspace(-1, 1, 4 * 70).reshape(70, 4)
    return Trainer(
        [
            Part(model, loss, spec, extras={"statistics": statistics}, shadows=(Shadow(0.99),), name="model"),
            Part(critic, judged, AdamW(1e-2), every=3, repeat=2, shadows=(target,), name="critic"),
        ],
        Batches({"x": x, "y": torch.stack([x[:, 0].sin(), x[:, 1] ** 2, x.sum(1)], 1)}, 16, seed=3),
        steps,
        run,
        seed=11,
        recipe={"optimiser": optimiser, "widths": (4, 16, 3)},
        log_every=7,
        checkpoint_every=40,
        checkpoint_seconds=None,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, name, count, pause, first = sys.argv[1:]
    trainer(Path(folder), name, int(count), float(pause), int(first)).train()
