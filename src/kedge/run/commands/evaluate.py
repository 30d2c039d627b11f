"""`kedge eval RUN`: a score over many starts, with the rows that always stand beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from kedge.errors import InputError
from kedge.run.commands.command import Command, Outcome, parsed, short
from kedge.run.commands.runs import check_fit, given_data, planning, recipe_of, task_of


@dataclass(frozen=True, kw_only=True)
class Eval(Command):
    """Scores a run, latched and raw, and stores every episode with its seed. The rows that always stand beside a score
    (the data's controller, the nearest logged segments, A*, time-optimal) are measured on the same starts.
    """

    folder: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN", help="The folder of the run.")
    ]
    episodes: int = 500
    """How many starts. Their seeds follow each other from --first-seed."""
    first_seed: int = 1_000_000
    """The seed of the first start. Starts below 10,000 are for tuning, those from 1,000,000 on for reporting."""
    env: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The environment, where it is not the one that the run was trained for: a maze's name, or a text file."""
    data: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """What the run learned from, where it is no longer in its place: the nearest logged segments come from it."""
    candidates: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Candidates a plan, in place of the recipe's own number."""
    grid: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Walk over a grid that `kedge grid fit` has left with the run, in place of the recipe's own."""
    alone: bool = False
    """Evaluate the run alone, without the rows that stand beside it."""
    fresh: bool = False
    """Measure everything again. Otherwise what the same command has finished before, and is unchanged, is kept."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Changes nothing here: the starts are seeded by --first-seed, and the run's own draws by theirs."""

    def run(self) -> Outcome:
        """Evaluates and stores."""
        for name, value in (("episodes", self.episodes), ("candidates", self.candidates)):
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1, got {value}")
        if self.first_seed < 0:
            raise InputError(f"--first-seed must not be negative, got {self.first_seed}")
        device = self.place()
        from kedge.run.notes import unfinished
        from kedge.train.progress import announce

        task = task_of(self.folder, self.env)
        check_fit(self.folder, task)
        if note := unfinished(self.folder, recipe_of(self.folder)):
            announce(note)
        scores, rows = evaluate_run(
            self.folder, task, self.episodes, self.first_seed, out=self.out, device=device,
            candidates=self.candidates, alone=self.alone, data=self._data(), fresh=self.fresh,
            jobs=self.jobs(self.episodes), grid=self.grid,
        )  # fmt: skip
        where = self.out or self.folder
        lines = [*scores.lines(), *(row.line for row in rows)]
        if where == self.folder:
            lines.append(f"stored in {short(where)}; next: kedge report {short(where)}")
        else:
            lines.append(f"stored in {short(where)}")
        found = {"run": str(self.folder), "out": str(where), **scores.summary()}
        return Outcome(lines, found | {"beside": {row.key: row.json() for row in rows}})

    def _data(self) -> Any:
        return None if self.data is None else given_data(self.folder, self.data)


def parse(args: Sequence[str]) -> Eval:
    """The flags."""
    return parsed(Eval, args, "eval")


def evaluate_run(
    folder: Path,
    task: Any,
    episodes: int,
    first_seed: int,
    *,
    out: Path | None = None,
    device: str | None = None,
    candidates: int | None = None,
    alone: bool = False,
    data: Any = None,
    fresh: bool = False,
    jobs: int = 1,
    grid: str | None = None,
) -> tuple[Any, list[Any]]:
    """The run's scores, and the rows beside them.

    Args:
        folder: the run.
        task: where it acts.
        episodes: how many starts.
        first_seed: of the starts.
        out: where the results go, if that is not the run's folder.
        device: where networks run.
        candidates: in place of the recipe's number.
        alone: without the rows.
        data: what the run learned from, where that is at hand.
        fresh: measures again what was measured before by the same agent, in the same task, on the same starts.
        jobs: processes that share the episodes.
        grid: the name of one that was fitted to the run.
    """
    from kedge.run.beside import beside, kept
    from kedge.run.commands.bar import Bar
    from kedge.run.notes import notes_of
    from kedge.train.progress import announce

    agent, where = _agent(folder, device, candidates), out or folder
    changed = overrides(folder, candidates=candidates)
    if grid is not None:
        from kedge.run.fitted import on_grid

        agent, changed["grid"] = on_grid(folder, agent, grid)
    notes = notes_of(folder, recipe_of(folder), changed, device)
    scores = None if fresh else kept(where, task, episodes, first_seed, notes)
    if scores is None:
        scores = _measured(folder, agent, task, episodes, first_seed, where, jobs, notes)
    else:
        announce(f"{short(where)}: evaluated already, {scores.provenance.get('when')}; kept")
    if alone:
        return scores, []
    rows = beside(
        where, task, agent, episodes, first_seed, Bar, logs=_logs(folder, data), notes=notes, fresh=fresh, jobs=jobs
    )  # fmt: skip
    return scores, rows


def overrides(folder: Path, **given: Any) -> dict[str, Any]:
    """What was given in place of a field of the recipe, and differs from it."""
    fields = recipe_of(folder).get("fields")
    own = fields if isinstance(fields, Mapping) else {}
    return {name: value for name, value in given.items() if value is not None and value != own.get(name)}


def _agent(folder: Path, device: str | None, candidates: int | None) -> Any:
    import kedge

    if candidates is not None:
        return replace(planning(folder, device, "--candidates"), candidates=candidates)
    return kedge.load(folder) if device is None else kedge.load(folder, device=device)


def _measured(
    folder: Path, agent: Any, task: Any, episodes: int, first_seed: int, where: Path, jobs: int, notes: dict[str, Any]
) -> Any:
    from kedge.run.commands.bar import Bar
    from kedge.run.evaluate import evaluate
    from kedge.run.notes import label_of

    label = label_of(recipe_of(folder), folder.name)
    with Bar(f"evaluating {short(folder)} on {episodes:,} starts") as bar:
        return evaluate(
            agent, task, episodes, first_seed=first_seed, jobs=jobs, out=where, label=label, progress=bar, notes=notes
        )


def _logs(folder: Path, data: Any) -> Callable[[], Any]:
    """What the run learned from: given, or found."""
    from kedge.run.recorded import recorded_logs

    return lambda: recorded_logs(folder, recipe_of(folder)) if data is None else data
