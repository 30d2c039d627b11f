"""`kedge demo`: demonstrations, training, evaluation and report, one after the other, each kept once it is done."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from kedge.errors import InputError
from kedge.run.commands.command import Command, Outcome, environment, parsed
from kedge.run.commands.evaluate import evaluate_run
from kedge.run.commands.runs import identity, refuse_another, trained_steps
from kedge.run.commands.train import demonstrations
from kedge.train.progress import announce, clock

FIRST_SEED = 1_000_000
LATCHED = "latched: an episode counts as solved from its first success on"


@dataclass(frozen=True)
class Scale:
    """How large a demo is."""

    env: str
    demonstrations: int
    starts: int
    recipe: dict[str, Any]


FULL = Scale("maze2d-large", 2_000_000, 100, {})
SMALL = Scale("maze2d-umaze", 20_000, 10, {"steps": 40})


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Makes demonstrations in a maze, trains the FV planner on them, evaluates it, and writes a report to be opened.
    What is finished is not done again: a second call reuses data, weights and scores.
    """

    small: bool = False
    """The small scale: the smallest maze and a training of seconds. It shows that all works, not how well."""
    fresh: bool = False
    """Start over: remove what an earlier demo has left."""
    env: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Another maze than maze2d-large: a name, or a text file that draws one."""

    def run(self) -> Outcome:
        """The four phases."""
        device = self.place()
        scale = SMALL if self.small else FULL
        task = environment(self.env or scale.env)
        out = self.out or Path("runs") / ("demo-small" if self.small else "demo")
        if self.fresh:
            start_over(out)
        recipe = self._recipe(out, scale, task)
        phases = Phases()
        with phases("demonstrations"):
            logs = demonstrations(task, scale.demonstrations, 0, cache=out / "data")
        with phases("training"):
            self._train(out, recipe, logs, task.name, device)
        with phases("evaluation"):
            scores, rows = evaluate_run(
                out, task, scale.starts, FIRST_SEED, device=device, data=logs, again=False, jobs=self.jobs(scale.starts)
            )  # fmt: skip
        with phases("report"):
            from kedge.run.report import report

            path = report(out)
        return self._outcome(out, scores.summary(), rows, path, phases)

    def _recipe(self, out: Path, scale: Scale, task: Any) -> Any:
        """The recipe; refused at once where the folder holds another demo."""
        from kedge.envs.demonstrations import settings
        from kedge.recipes import FV

        recipe = FV(**scale.recipe)
        made = settings(task.layout, scale.demonstrations, 0)
        refuse_another(out, identity(recipe, self.seed, task.name, made))
        return recipe

    def _train(self, out: Path, recipe: Any, logs: Any, task: str, device: str | None) -> None:
        if (trained_steps(out) or 0) >= recipe.steps and (out / "weights.safetensors").is_file():
            announce(f"training: already finished, {recipe.steps:,} steps")
            return
        recipe.train(logs, run=out, seed=self.seed, device=device, progress=True, task=task)

    def _outcome(self, out: Path, words: dict[str, Any], rows: list[Any], path: Path, phases: Phases) -> Outcome:
        score = words["latched"]["score"]
        lines = [
            *(f"{name:<15} {clock(seconds)}" for name, seconds in phases.seconds.items()),
            f"{'in all':<15} {clock(sum(phases.seconds.values()))}",
            *(row.line for row in rows),
            f"score           {score['mean']:.1f} latched, 95% interval {score['low']:.1f} to {score['high']:.1f}",
            f"                over {words['episodes']} starts of {words['task']}; {LATCHED}",
            f"report          {path.resolve()}",
        ]
        found = {"run": str(out), "report": str(path.resolve()), "phases": phases.seconds, **words}
        return Outcome(lines, found | {"beside": {row.key: row.json() for row in rows}})


@dataclass
class Phases:
    """How long each phase took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times a phase, and says so when it is done."""
        begun = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begun
        announce(f"--- {name}: {clock(self.seconds[name])}")


def start_over(out: Path) -> None:
    """Removes an earlier demo's folder, and nothing that is none."""
    if not out.exists():
        return
    if not out.is_dir() or not ((out / "recipe.json").is_file() or (out / "data").is_dir()):
        raise InputError(f"--fresh: {out} is not a demo's folder, so it is left alone; give another --out")
    shutil.rmtree(out)


def parse(args: Sequence[str]) -> Demo:
    """The flags."""
    return parsed(Demo, args, "demo")
