"""How large the error is at each noise level, on data that was not trained on, and what the weighting takes it for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from kedge.data import Segments
from kedge.fit import DenoisingLoss, Draw, denoising_error, level_error
from kedge.fit.weightings import LearnedHead, Polynomial
from kedge.noise import Noise
from kedge.train import CsvFile, Tick
from kedge.tree import first_leaf

LEVELS = 25
"""Noise scales at which the error is taken, evenly spaced in their logarithm over what training draws."""

TIMES = 6
"""How often during a run: after its first reading and then at steps that grow by an equal factor."""


class Landscape:
    """A sink that keeps `landscape.csv`: `log L` at some noise scales, of held-out windows, and the weighting's fit.

    A row is a noise scale at a step of the training. "fitted" is what the weighting takes `log L` for; it is empty
    where the weighting learns nothing. All is measured on the weights in training, not on their average, for these are
    what the weighting follows.
    """

    def __init__(self, loss: DenoisingLoss, windows: Segments, steps: int) -> None:
        self.loss = loss
        self.table = CsvFile("landscape.csv")
        tick = Tick(0, 0)
        self.batch = windows.next(tick) | {"told": torch.zeros(windows.batch_size, dtype=torch.bool)}
        self.due = [int(steps ** (k / (TIMES - 1))) for k in range(TIMES)]
        self.done = 0

    def open(self, run: Path, step: int) -> None:
        """Begins, or goes on after `step`."""
        self.table.open(run, step)
        rows = self.table.path.read_text(encoding="utf-8").splitlines()[1:]
        last = int(rows[-1].partition(",")[0]) if rows else 0
        self.done = sum(due <= last for due in self.due)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Measures, if it is time to."""
        passed = sum(due <= step for due in self.due)
        if passed > self.done:
            self.done = passed
            for line in measure(self.loss, self.batch):
                self.table.write(step, line)

    def close(self) -> None:
        """Nothing more comes."""
        self.table.close()


@torch.no_grad()
def measure(loss: DenoisingLoss, batch: Mapping[str, torch.Tensor]) -> list[dict[str, float]]:
    """`log_sigma`, `log_loss` and `fitted` at each level: the same noise at all, so that the curve is smooth."""
    device = next(loss.parameters()).device
    x, _, known = loss.read({name: value.to(device) for name, value in batch.items()})
    count = first_leaf(x).shape[0]
    u = (torch.arange(512, dtype=torch.float64) + 0.5) / 512
    t = loss.proposal.times(loss.path, u).clamp(loss.path.t_min, loss.path.t_max)
    scales = torch.as_tensor(loss.path.noise_scale(t))
    log_sigmas = torch.linspace(float(scales.min().log()), float(scales.max().log()), LEVELS)
    z = loss.path.noise(x, Noise.of(0, count, device), 0)
    lines = []
    was = loss.training
    loss.eval()
    for log_sigma in log_sigmas.tolist():
        level = loss.path.time_at(torch.tensor(log_sigma).exp().item())
        times = torch.full((count,), float(level), device=device)
        error, _ = denoising_error(loss.denoiser, x, Draw(times, z), known=known)
        L = level_error(error, times, known).mean()
        lines.append({"log_sigma": log_sigma, "log_loss": float(L.log()), **_fitted(loss, times[:1])})
    loss.train(was)
    return lines


def _fitted(loss: DenoisingLoss, t: torch.Tensor) -> dict[str, float]:
    """What the weighting takes the log of the mean error for, if it learns that."""
    log_snr = loss.path.log_snr(t)
    match loss.weighting:
        case Polynomial():
            return {"fitted": float(loss.weighting.log_error(log_snr)[0])}
        case LearnedHead():
            return {"fitted": float(-loss.weighting(log_snr).log()[0])}
        case _:
            return {}
