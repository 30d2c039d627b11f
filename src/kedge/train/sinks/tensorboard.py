"""Figures to TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedge.extras import optional


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir runs`."""

    def __init__(self) -> None:
        optional("tensorboard", "tensorboard", "which takes these figures")
        self._writer: Any = None

    def open(self, run: Path, step: int) -> None:
        """Opens an event file that hides what earlier ones hold beyond `step`."""
        writing = optional("torch.utils.tensorboard", "tensorboard", "which takes these figures")
        self._writer = writing.SummaryWriter(log_dir=str(run), purge_step=step + 1)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """A point on each figure's curve."""
        for name, figure in row.items():
            self._writer.add_scalar(name, figure, step)

    def close(self) -> None:
        """Writes out what is pending."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
