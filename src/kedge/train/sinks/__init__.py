"""Where the figures of a run go: a file each; those with a dependency of their own import it when they are made."""

from __future__ import annotations

from kedge.train.sinks.csv_file import CsvFile
from kedge.train.sinks.sink import Sink
from kedge.train.sinks.tensorboard import TensorBoard
from kedge.train.sinks.trackio import Trackio
from kedge.train.sinks.wandb import WandB

__all__ = ["CsvFile", "Sink", "TensorBoard", "Trackio", "WandB"]
