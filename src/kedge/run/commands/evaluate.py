"""`kedge eval RUN`: a score over many starts, with the rows that always stand beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from kedge.run.commands.command import Command, Outcome, parsed, short
from kedge.run.commands.runs import recipe_of, task_of


@dataclass(frozen=True, kw_only=True)
class Eval(Command):
    """Scores a run, latched and raw, and stores every episode with its seed. The rows that always stand beside a score
    (the data's controller, the nearest logged segment, A* and P-D, time-optimal) are measured on the same starts.
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
    candidates: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Candidates a plan, in place of the recipe's own number."""
    alone: bool = False
    """Evaluate the run alone, without the rows that stand beside it."""

    def run(self) -> Outcome:
        """Evaluates and stores."""
        device = self.place()
        task = task_of(self.folder, self.env)
        scores, rows = evaluate_run(
            self.folder, task, self.episodes, self.first_seed,
            out=self.out, device=device, candidates=self.candidates, alone=self.alone,
        )  # fmt: skip
        where = self.out or self.folder
        lines = [*scores.lines(), *rows, f"stored in {short(where)}; next: kedge report {short(where)}"]
        return Outcome(lines, {"run": str(self.folder), "out": str(where), **scores.summary()})


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
) -> tuple[Any, list[str]]:
    """The run's scores, and a line for each row beside them."""
    import kedge
    from kedge.run.beside import beside
    from kedge.run.commands.bar import Bar
    from kedge.run.evaluate import evaluate

    placed = {} if device is None else {"device": device}
    agent = kedge.load(folder, **placed)  # type: ignore[attr-defined]
    controller = agent.controller() if candidates is None else agent.controller(candidates=candidates)
    label = str(recipe_of(folder).get("recipe") or folder.name)
    where = out or folder
    with Bar(f"evaluating {short(folder)} on {episodes:,} starts") as bar:
        scores = evaluate(controller, task, episodes, first_seed=first_seed, out=where, label=label, progress=bar)
    rows = [] if alone else beside(where, task, agent, episodes, first_seed, Bar)
    return scores, rows
