"""Runs whose files say something else than they did."""

from __future__ import annotations

import random
from pathlib import Path

from drilling.scene import BOX, FEW, TRAIN
from drilling.sources.broken import breaks
from drilling.sources.given import Given
from drilling.sources.trees import breaks_json

JSON = ("recipe.json", "recipe.json", "recipe.json", "evaluation.json", "alignment.json")
TABLES = ("metrics.csv", "landscape.csv", "episodes.csv", "traces.npz")


def draw(rng: random.Random, place: Path) -> Given:
    """One file of a run, and a command that reads it."""
    run = rng.choice(("runs/fv", "runs/al"))
    name = rng.choice(JSON if rng.random() < 0.7 else TABLES)
    path = place / run / name
    if not path.is_file():
        path = place / run / "recipe.json"
    what = breaks_json(rng, path) if path.suffix == ".json" else breaks(rng, path)
    return Given(list(rng.choice(reading(run))), f"{run}: {what}")


def reading(run: str) -> list[tuple[str, ...]]:
    """Commands that look into a run."""
    return [
        ("eval", run, "--episodes", "2", "--alone"),
        ("eval", run, "--episodes", "1", "--alone", "--out", "scores"),
        ("compare", run, "runs/fv"),
        ("compare", "runs/fv", run),
        ("report", run, "--out", "reports"),
        ("report", run),
        ("align", "vmpo", run, *BOX, *FEW, "--out", "runs/new"),
        (*TRAIN, "--out", run),
    ]
