"""`kedge sweep RECIPE --over FIELD=...`: a search over a recipe's fields; each trial is a run like any other."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from kedge import extras
from kedge.errors import InputError
from kedge.run.commands.command import Outcome, short
from kedge.run.commands.named import Named, named
from kedge.run.commands.train import RECIPES, Train, default_name

HELP = """usage: kedge sweep RECIPE --over FIELD=RANGE [--over FIELD=RANGE ...] [flags]

Searches for the fields of a recipe that are best. Each trial is a run like any other, in a folder of its own, trained
and evaluated as `kedge train` and `kedge eval` do it, on starts that no report uses. Killed, the same command goes on.

ranges:
  rate=1e-4:1e-2:log   numbers between two, evenly in their logarithm
  candidates=8:64      between two, evenly; whole ones, where the field counts something
  width=64,128,256     one of these; also names, true and false, and lists (mults=1 2,1 2 4)

RECIPE is fv, dv or diffuser. Its other fields are flags, as those of `kedge train`: they are the same in all trials.

kedge sweep RECIPE --help lists the flags. It needs `pip install 'kedge[sweep]'`, and --ray `pip install 'kedge[ray]'`.
"""


@dataclass(frozen=True, kw_only=True)
class Sweep(Train):
    """What is searched, and by what; beside the recipe and what it is trained on."""

    over: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="FIELD=RANGE")] = ()
    """A field and its range, once for each field: rate=1e-4:1e-2:log, candidates=8:64 or width=64,128,256."""
    trials: int = 20
    """How many trials, those that fail or are pruned among them. A larger number goes on with a finished sweep."""
    by: Annotated[str, tyro.conf.arg(metavar="FIGURE")] = "score"
    """What trials are chosen by: score (latched), raw, success, val_loss (the error on held-out data), or a column of
    metrics.csv such as planner/error."""
    direction: Literal["max", "min"] | None = None
    """Whether more of it is better, where the figure is a column that does not say so by its name."""
    episodes: int = 100
    """Starts that each trial is evaluated on."""
    first_seed: int = 0
    """The seed of the first of them. All lie below 10,000: those are for tuning, and no report uses them."""
    search: Literal["tpe", "random"] = "tpe"
    """How fields are proposed: by what the trials so far say (tree-structured Parzen estimators), or at random."""
    prune: Literal["none", "median", "hyperband"] = "none"
    """Whether trials are ended early whose figure on the way is worse than the median, or by hyperband's rule. Off by
    default: a slow starter is cut that might have been best, and each look costs an evaluation."""
    at_once: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Trials at once: by default one, which uses all cores to evaluate; on a ray cluster as many as have room there."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Carry trials out as tasks of ray: local starts it here, auto finds the cluster of this machine, or an address. A
    task takes one processor (--threads N: that many), and a GPU with --device cuda. All machines have to see --out."""

    def run(self, recipe: Any, name: str) -> Outcome:
        """Looks at all that was given, and then searches."""
        self._check()
        self.place()
        from kedge.run.sweep.figure import by
        from kedge.run.sweep.space import space_of

        space, figure = space_of(recipe, self.over), by(self.by, self.direction, self.episodes, self.first_seed)
        _unswept(recipe, space)
        folder = self.out or Path("runs") / f"{default_name(name, self._where(), self.seed)}-sweep"
        told = self._told(recipe, name, figure)
        with _mine(folder):
            _refuse_another(folder, told)
            self._look_at_data(recipe, figure)
            return self._search(recipe, name, space, figure, folder, told)

    def _check(self) -> None:
        """What can be said at once."""
        for what, extra in (("optuna", "sweep"), ("ray", "ray")):
            if (what == "optuna" or self.ray is not None) and importlib.util.find_spec(what) is None:
                raise InputError(f"this needs {what}, which is not installed: {extras.command([extra])}")
        for flag, value in (
            ("trials", self.trials),
            ("at-once", self.at_once),
            ("demonstrations", self.demonstrations),
        ):
            if value is not None and value < 1:
                raise InputError(f"--{flag} must be at least 1, got {value}")

    def _search(self, recipe: Any, name: str, space: Any, figure: Any, folder: Path, told: dict[str, Any]) -> Outcome:
        from kedge.run.sweep.loop import Sweep as Search

        flags = self._flags()
        jobs = flags.jobs(self.episodes)
        search = Search(
            folder, recipe, name, flags, space, figure, told, self.trials, self.search, self.prune, jobs
        )  # fmt: skip
        before = sum(row.state != "begun" for row in search.rows())
        if before < search.trials:
            search.go(self._pool())
        return self._outcome(search, before)

    def _pool(self) -> Any:
        from kedge.run.sweep.pools import Processes, Ray

        if self.ray is None:
            return Processes(self.at_once or 1)
        return Ray(self.ray, self.at_once, self.threads or 1, int(str(self.device).startswith("cuda")))

    def _flags(self) -> Train:
        """Those of `kedge train`, as each trial has them: paths that hold anywhere, and its share of the cores."""
        from kedge.run.abreast import cores

        own = {of.name: getattr(self, of.name) for of in dataclasses.fields(Train)}
        for name in ("env", "data"):
            if own[name] is not None and Path(own[name]).expanduser().exists():
                own[name] = str(Path(own[name]).expanduser().resolve())
        if self.ray is not None:
            own["threads"] = self.threads or 1
        elif self.threads is None and (self.at_once or 1) > 1:
            own["threads"] = max(1, cores() // (self.at_once or 1))
        return Train(**own)

    def _where(self) -> str:
        from kedge.run.sweep.trial import task_of_flags

        task = task_of_flags(self)
        return task.name if task is not None else Path(str(self.data)).stem

    def _told(self, recipe: Any, name: str, figure: Any) -> dict[str, Any]:
        """What this sweep is: with anything else of it, it is another one."""
        from kedge.run.commands.runs import identity
        from kedge.run.sweep.trial import task_of_flags

        task = task_of_flags(self)
        known = identity(recipe, self.seed, task, self._settings(task)) | {"named": name}
        known |= {"over": dict(_split(text) for text in self.over), **figure.json()}
        known |= {"search": self.search, "prune": self.prune, "precision": self.precision}
        return known | ({} if self.data is None else {"source": self.data})

    def _look_at_data(self, recipe: Any, figure: Any) -> None:
        """Makes or opens the data here first: what is wrong with them is wrong for all trials, and said once."""
        from kedge.run.sweep.trial import task_of_flags

        task = task_of_flags(self)
        if task is None and figure.scored:
            raise InputError(f"--by {self.by} takes an environment: give --env as well, or choose --by val_loss")
        self.check(recipe, task, self._logs(task))

    def _outcome(self, search: Any, before: int) -> Outcome:
        from kedge.run.sweep.results import command, keep, lines, ranked
        from kedge.run.sweep.space import filled
        from kedge.run.sweep.study import importance

        rows, figure = search.rows(), search.by
        matters = importance(search.study, list(search.space))
        found = keep(search.folder, search.told, rows, figure, matters)
        said = lines(rows, figure, matters)
        best = next(iter(ranked(rows, figure)), None)
        if best is None:
            said.append(f"no trial has finished; each says why in its {short(search.folder)}/trial-*/log.txt")
            return Outcome(said, found | {"folder": str(search.folder)}, 1)
        flags = replace(self._plain(), out=Path(f"{short(search.folder)}-best"))
        again = command(filled(search.recipe, search.space, best.told), search.name, flags)
        said += [
            "the best of many looks better than it is: its score is the one on starts that it was not chosen by",
            f"next: kedge eval {short(best.folder)}",
            f"and: kedge report {short(search.folder)}",
            f"the best once more: {again}",
        ]
        again_and = {"folder": str(search.folder), "command": again, "finished_before": before >= search.trials}
        return Outcome(said, found | again_and)

    def _plain(self) -> Train:
        return Train(**{of.name: getattr(self, of.name) for of in dataclasses.fields(Train) if of.name != "json"})


def parse(args: Sequence[str]) -> Named:
    """The recipe by its name, and its fields and the common flags side by side."""
    return named(args, "sweep", "recipe", RECIPES, Sweep, HELP)


def _split(text: str) -> tuple[str, str]:
    name, _, values = text.partition("=")
    return name.strip().replace("-", "_"), values.strip()


def _unswept(recipe: Any, space: Any) -> None:
    """A field that was given and is searched over as well."""
    for name in space:
        if (given := getattr(recipe, name)) != getattr(type(recipe)(), name):
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} {given} and --over {name}: give a field for all trials, or its range")


def _refuse_another(folder: Path, told: dict[str, Any]) -> None:
    """Takes the folder for this sweep, or finds that it is."""
    from kedge.run.sweep.results import SWEEP, read_sweep
    from kedge.train import RefusedError
    from kedge.train.checkpoint import differences, plain, save_json

    if (folder / "recipe.json").exists():
        raise RefusedError(f"{folder} is the folder of a run: choose another folder")
    told_here = plain(told, "sweep")
    if not (folder / SWEEP).exists():
        save_json(folder / SWEEP, {"sweep": told_here})
        return
    if odd := differences(read_sweep(folder)["sweep"], told_here):
        raise RefusedError(f"{folder} belongs to another sweep ({'; '.join(odd)}): choose another folder")


@contextlib.contextmanager
def _mine(folder: Path) -> Iterator[None]:
    """Makes the folder, and holds it against a second process, however this one ends."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be a folder ({error.strerror or error}); give another") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another process is at work on this sweep; wait, or choose --out") from None
        yield
    finally:
        os.close(handle)
