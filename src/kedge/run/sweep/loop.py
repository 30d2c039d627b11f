"""The sweep itself: proposes trials, hands them to a pool, judges them on their way, keeps what they come to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from kedge.errors import InputError
from kedge.run.sweep.figure import By
from kedge.run.sweep.pools import Pool
from kedge.run.sweep.results import Row, keep
from kedge.run.sweep.space import Space, as_it_is, combinations, filled
from kedge.run.sweep.study import RUNGS, Drawn, Prune, Search, opened, taken_up
from kedge.run.sweep.trial import RUNGS as FIGURES
from kedge.run.sweep.trial import VERDICT, Ending, Piece, read_small
from kedge.train.checkpoint import CheckpointError, save_json
from kedge.train.interrupts import Interrupts
from kedge.train.progress import announce, clock

LOOK = 0.05
"""Seconds between two looks at the trials."""
HOPELESS = 3
"""Failures, with no success before them, after which it is the sweep that is wrong."""


@dataclass
class Sweep:
    """A sweep in its folder: all that does not depend on where its trials are carried out."""

    folder: Path
    recipe: Any
    name: str
    flags: Any
    space: Space
    by: By
    told: dict[str, Any]
    trials: int = 20
    search: Search = "tpe"
    prune: Prune = "none"
    jobs: int = 1
    going: dict[int, Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sampler = Drawn(self.space, as_it_is(self.recipe, self.space), self.flags.seed, self.search)
        self.study = opened(self.folder, self.sampler, self.prune, self.by.direction == "max")
        self.waiting = [trial for trial in self._all() if not trial.state.is_finished()]
        self.trials = int(min(self.trials, combinations(self.space)))
        self.next = self._made()

    def go(self, pool: Pool) -> None:
        """Until all trials have ended, or somebody has had enough."""
        with Interrupts() as interrupts, _stopping(pool):
            while not interrupts.received:
                self._fill(pool)
                if not self.going:
                    return
                for number in self.going:
                    self._judge(number)
                for number, ending in pool.ended():
                    self._settle(number, ending)
                time.sleep(LOOK)
        raise SystemExit(self._interrupted(128 + (interrupts.received or 0)))

    def rows(self) -> list[Row]:
        """A row a trial, in their order."""
        return [self._row(trial) for trial in self._all()]

    def folder_of(self, number: int) -> Path:
        """Where a trial's run is."""
        return self.folder / f"trial-{number:03d}"

    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _made(self) -> Iterator[Trial]:
        """Those that were begun before, and then new ones."""
        for begun in self.waiting:
            yield taken_up(self.study, self.sampler, begun)
        while len(self._all()) < self.trials:
            yield taken_up(self.study, self.sampler)

    def _fill(self, pool: Pool) -> None:
        while len(self.going) < pool.room:
            trial = next(self.next, None)
            if trial is None:
                return
            self._begin(trial, pool)

    def _begin(self, trial: Trial, pool: Pool) -> None:
        number = trial.number
        self.going[number] = trial
        try:
            recipe = filled(self.recipe, self.space, trial.params)
        except InputError as error:  # fields that do not fit each other
            self._settle(number, Ending("failed", why=str(error)))
            return
        flags = replace(self.flags, out=self.folder_of(number).resolve())  # as every machine sees it
        announce(f"trial {number}: {worded(trial.params)}")
        pool.start(Piece(number, recipe, self.name, flags, self.by, self.jobs, RUNGS[self.prune]))

    def _judge(self, number: int) -> None:
        """Hears the figures that a trial has on its way, in their order, and says whether it is to go on."""
        if self.prune == "none":
            return
        folder, trial = self.folder_of(number), self.going[number]
        heard = read_small(folder / VERDICT)
        for rung in sorted(int(rung) for rung in read_small(folder / FIGURES)):
            if heard.get("prune") or rung <= heard.get("judged", 0):
                continue
            if rung not in self._all()[number].intermediate_values:
                trial.report(read_small(folder / FIGURES)[str(rung)], rung)
            heard = {"judged": rung, "prune": bool(trial.should_prune())}
            save_json(folder / VERDICT, heard)

    def _settle(self, number: int, ending: Ending) -> None:
        """Notes how a trial has ended."""
        trial = self.going.pop(number)
        if ending.state == "amiss":
            raise InputError(f"trial {number}: {ending.why}")
        if ending.state == "broken":
            raise CheckpointError(f"trial {number}: {ending.why}; the same command goes on once that is mended")
        if ending.state == "stopped":
            announce(f"trial {number} was told to stop")
            raise SystemExit(self._interrupted(143))
        trial.set_user_attr("seconds", round(ending.seconds, 1))
        if ending.why:
            trial.set_user_attr("why", ending.why)
        states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        self.study.tell(trial, ending.value, states[ending.state])
        rows = self.rows()
        keep(self.folder, self.told, rows, self.by)
        announce(self._said(rows[number]))
        self._hopeless(rows)

    def _said(self, row: Row) -> str:
        """A line about a trial that has ended."""
        if row.value is None:
            return f"trial {row.number}: {row.state}" + (f" ({row.why})" if row.why else "")
        best = self.study.best_trial
        so_far = "the best so far" if best.number == row.number else f"the best so far {best.value:.4g}"
        return f"trial {row.number}: {self.by.word} {row.value:.4g} ({so_far}), {clock(row.seconds)}"

    def _hopeless(self, rows: list[Row]) -> None:
        ended = [row for row in rows if row.state != "begun"]
        if len(ended) >= HOPELESS and all(row.state == "failed" for row in ended[:HOPELESS]) and not self._any(rows):
            raise InputError(f"the first {len(ended)} trials have all failed, the last one thus: {ended[-1].why}")

    def _any(self, rows: list[Row]) -> bool:
        return any(row.state in ("finished", "pruned") for row in rows)

    def _row(self, trial: FrozenTrial) -> Row:
        words = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
        about = trial.user_attrs
        state = words.get(trial.state, "begun")
        value = trial.value if state == "finished" else None
        seconds, why = float(about.get("seconds", 0.0)), str(about.get("why", ""))
        return Row(trial.number, state, value, dict(trial.params), seconds, self.folder_of(trial.number), why)

    def _interrupted(self, code: int) -> int:
        announce(f"{self.folder}: stopped; the same command goes on from what is finished")
        return code


@contextmanager
def _stopping(pool: Pool) -> Iterator[None]:
    """However it ends, nothing goes on by itself."""
    try:
        yield
    finally:
        pool.stop()


def worded(told: dict[str, Any]) -> str:
    """Fields with their values."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in told.items()
    )
