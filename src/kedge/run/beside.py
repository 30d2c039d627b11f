"""The rows that always stand beside a score: who else could have had it, on the same starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kedge.exact.time_optimal import TimeOptimal
from kedge.run.evaluate import evaluate
from kedge.run.provenance import provenance
from kedge.run.scores import Scores
from kedge.run.statistics import interval

FOLDER = "baselines"
"""Where in a run's folder the rows are kept."""


@dataclass(frozen=True)
class Known:
    """What a row's controller may be made of."""

    task: Any
    agent: Any


Make = Callable[[Known], Any]

ROWS: dict[str, tuple[str, Make]] = {
    "controller": ("the data's controller", lambda known: known.task.controller()),
}
"""Each row's name and what makes its controller; None where it cannot be made."""


def beside(folder: Path, task: Any, agent: Any, episodes: int, first_seed: int, bar: Callable[[str], Any]) -> list[str]:
    """Measures the rows that are not there yet for just these starts, and says each in a line."""
    lines = []
    for key, (label, make) in ROWS.items():
        where = folder / FOLDER / key
        scores = _kept(where, task, episodes, first_seed)
        if scores is None:
            controller = make(Known(task, agent))
            if controller is None:
                continue
            with bar(f"beside it: {label}") as progress:
                scores = evaluate(
                    controller, task, episodes, first_seed=first_seed, out=where, label=label, progress=progress
                )
        lines.append(f"beside it: {label}, latched {scores.interval()}")
    if hasattr(task, "layout"):
        lines.append(f"beside it: {optimal(folder / FOLDER / 'optimal', task, episodes, first_seed)}")
    return lines


def optimal(where: Path, task: Any, episodes: int, first_seed: int) -> str:
    """The least number of steps from each start, by backward search; a row without episodes of its own."""
    states = np.asarray(task.simulator(episodes).reset(range(first_seed, first_seed + episodes)), dtype=float)
    steps = TimeOptimal(task.layout).steps(states)
    found = interval(np.asarray(task.score(np.maximum(task.horizon + 1 - steps, 0)), dtype=float))
    words = {
        "task": task.name,
        "label": "time-optimal",
        "episodes": episodes,
        "seeds": [first_seed, first_seed + episodes - 1],
        "latched": {"score": found.json()},
        "success": float((steps <= task.horizon).mean()),
        **provenance(),
    }
    where.mkdir(parents=True, exist_ok=True)
    (where / "evaluation.json").write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    return f"time-optimal, latched {found}"


def _kept(where: Path, task: Any, episodes: int, first_seed: int) -> Scores | None:
    """The row as it was measured before, if that was on the same starts."""
    if not (where / "evaluation.json").is_file():
        return None
    scores = Scores.load(where)
    same = scores.task == task.name and len(scores.seeds) == episodes and int(scores.seeds[0]) == first_seed
    return scores if same else None
