"""Training: parts, their shadows, sources of batches, the one loop over them, and what a run leaves in its folder."""

from __future__ import annotations

from kedge.train.checkpoint import (
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
    RefusedError,
    load_tree,
    load_weights,
    save_tree,
    save_weights,
)
from kedge.train.crew import Crew, CrewError, joined
from kedge.train.optimisers import AdamW, Muon, OptimiserSpec
from kedge.train.part import Backward, Batch, GradientRule, Info, Loss, Part, Tick
from kedge.train.schedules import Schedule
from kedge.train.shadow import Shadow
from kedge.train.sinks import CsvFile, Sink, TensorBoard, Trackio, WandB
from kedge.train.source import Batches, Source
from kedge.train.trainer import Trainer
from kedge.train.update import DivergenceError

__all__ = [
    "AdamW",
    "Backward",
    "Batch",
    "Batches",
    "CheckpointError",
    "CheckpointWarning",
    "Checkpoints",
    "Crew",
    "CrewError",
    "CsvFile",
    "DivergenceError",
    "GradientRule",
    "Info",
    "Loss",
    "Muon",
    "OptimiserSpec",
    "Part",
    "RefusedError",
    "Schedule",
    "Shadow",
    "Sink",
    "Source",
    "TensorBoard",
    "Tick",
    "Trackio",
    "Trainer",
    "WandB",
    "joined",
    "load_tree",
    "load_weights",
    "save_tree",
    "save_weights",
]
