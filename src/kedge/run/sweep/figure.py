"""What a sweep goes by: a figure of each trial, and whether more of it is better."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kedge.errors import InputError
from kedge.run.evaluate import evaluate

CHOOSING = "choosing"
"""Where in a trial's folder the evaluation is that it was chosen by: apart from the one that is reported."""
TUNING = 10_000
"""Starts below this seed are for tuning: results are reported on others."""
TAIL = 0.1
"""Share of a table's rows, the last ones, over which a figure is averaged."""
SCORES = {"score": "latched_score", "raw": "raw_score", "success": "success"}
HELD_OUT = "val_loss"

Direction = Literal["max", "min"]


class UnknownColumnError(InputError):
    """A figure that no trial has: no fault of the trial."""


@dataclass(frozen=True)
class By:
    """The figure, and on which starts it is taken where it is a score."""

    word: str
    direction: Direction
    episodes: int
    first_seed: int

    @property
    def scored(self) -> bool:
        """Whether it takes an evaluation."""
        return self.word in SCORES

    @property
    def sentence(self) -> str:
        """What trials are chosen by."""
        better = "the higher the better" if self.direction == "max" else "the lower the better"
        last = self.first_seed + self.episodes - 1
        meaning = {
            "score": f"the latched score on starts {self.first_seed} to {last}",
            "raw": f"the raw score on starts {self.first_seed} to {last}",
            "success": f"the share of starts {self.first_seed} to {last} that were solved",
            HELD_OUT: "the mean log error over noise levels on held-out data",
        }
        return f"{meaning.get(self.word, f'{self.word}, averaged over the last tenth of metrics.csv')} ({better})"

    def of_run(self, folder: Path, task: Any, device: str | None, jobs: int) -> float:
        """Of a run that is trained."""
        if not self.scored:
            return self.so_far(folder)
        from kedge.run.commands.evaluate import evaluate_run

        scores, _ = evaluate_run(
            folder, task, self.episodes, self.first_seed, out=folder / CHOOSING, device=device, alone=True, jobs=jobs
        )
        return self._mean(scores)

    def of_training(self, training: Any, task: Any) -> float:
        """Of one that is on its way: the agent as it is now, on the same starts."""
        if not self.scored:
            return self.so_far(training.run)
        return self._mean(evaluate(training.agent(), task, self.episodes, first_seed=self.first_seed))

    def so_far(self, folder: Path) -> float:
        """By what training has written."""
        if self.word == HELD_OUT:
            table = columns(folder / "landscape.csv", "log_loss")
            last = table["step"] == table["step"].max()
            return float(table["log_loss"][last].mean())
        figures = columns(folder / "metrics.csv", self.word)[self.word]
        figures = figures[~np.isnan(figures)] if np.isnan(figures[:-1]).any() else figures
        return float(figures[-math.ceil(TAIL * len(figures)) :].mean())

    def known_in(self, row: Mapping[str, Any]) -> None:
        """One line where a training writes no such figure."""
        if not self.scored and self.word != HELD_OUT and row and self.word not in row:
            raise UnknownColumnError(_unknown(self.word, "metrics.csv", row))

    def _mean(self, scores: Any) -> float:
        return float(np.asarray(getattr(scores, SCORES[self.word]), dtype=float).mean())

    def json(self) -> dict[str, Any]:
        """As `sweep.json` keeps it."""
        starts = {"episodes": self.episodes, "first_seed": self.first_seed} if self.scored else {}
        return {"by": self.word, "direction": self.direction} | starts


def by(word: str, direction: Direction | None, episodes: int, first_seed: int) -> By:
    """The figure by its name; one line where it cannot be chosen by."""
    if word in SCORES and (episodes < 1 or first_seed < 0 or first_seed + episodes > TUNING):
        raise InputError(
            f"--first-seed {first_seed} and --episodes {episodes}: a sweep chooses by starts from 0 to {TUNING - 1:,}; "
            "those beyond are for reporting, and a trial that was chosen by them would look better than it is"
        )
    natural: Direction | None = "max" if word in SCORES else None
    if word == HELD_OUT or word.rsplit("/", 1)[-1] in ("loss", "error", "weighted"):
        natural = "min"
    if direction is None and natural is None:
        raise InputError(f"--by {word}: say whether more of it is better: --direction max or --direction min")
    if direction is not None and word in (*SCORES, HELD_OUT) and direction != natural:
        raise InputError(f"--direction {direction}: {word} is better the {'higher' if natural == 'max' else 'lower'}")
    return By(word, direction or natural or "max", episodes, first_seed)


def columns(path: Path, wanted: str) -> Mapping[str, np.ndarray]:
    """The steps of a table and one of its columns; one line where it has none of that name."""
    if not path.is_file():
        raise UnknownColumnError(f"{path}: not there; these trials write no such table, so choose --by another figure")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or wanted not in rows[0]:
        raise UnknownColumnError(_unknown(wanted, path.name, rows[0] if rows else ()))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in ("step", wanted)}


def _unknown(wanted: str, table: str, names: Iterable[str]) -> str:
    known = ", ".join(name for name in names if name not in ("step", "seconds"))
    return f"--by {wanted}: {table} has no such column; it has {known or 'no rows'}; choose another, and another --out"
