"""Which of two arms is better, and by how much: paired over training seeds and starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from kedge.disk import read_object
from kedge.errors import InputError
from kedge.recipes.loading import FORM
from kedge.run.notes import read_words, remarks
from kedge.run.scores import Scores
from kedge.run.statistics import FEW, Interval, Paired, holm, interval, paired

TUNING = 10_000
"""Starts below this seed are for tuning: a comparison on them is no confirmation."""

FIELDS = 3
"""Fields at most by which a label tells arms apart."""

Which = Literal["latched", "raw"]
Runs = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Arm:
    """Runs of one recipe that differ in their training seed alone, or one thing that has none: a script, an oracle.

    `environment` is what the task's maze looks like, where the evaluation tells.
    """

    label: str
    runs: tuple[Path, ...]
    training: tuple[int | None, ...]
    task: str
    starts: Int[np.ndarray, " starts"]
    latched: Float[np.ndarray, "runs starts"]
    raw: Float[np.ndarray, "runs starts"]
    environment: Mapping[str, Any] | None = None

    @property
    def fixed(self) -> bool:
        """Whether nothing was trained, so that every training seed of another arm meets the same."""
        return self.training == (None,)

    def scores(self, which: Which) -> Float[np.ndarray, "runs starts"]:
        """Normalised scores, a row a training seed."""
        rows = self.latched if which == "latched" else self.raw
        if not np.isfinite(rows).all():
            raise InputError(
                f"{self.label}: no raw return, its evaluation stopped where all was solved; evaluate it to the end"
            )
        return rows


def arm(runs: Runs, label: str | None = None) -> Arm:
    """Reads the evaluations of an arm's runs."""
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    if not folders:
        raise InputError("compare: give a run at least")
    recipes = [_recipe(folder) for folder in folders]
    names = [_group(folder, recipe) for folder, recipe in zip(folders, recipes, strict=True)]
    if (odd := next((i for i, name in enumerate(names) if name != names[0]), None)) is not None:
        raise InputError(
            f"{folders[0]} and {folders[odd]}: not the same recipe but for its seed, or not evaluated alike, so they "
            "are two arms"
        )
    return _arm(folders, [_seed(recipe) for recipe in recipes], label)


def arms(runs: Sequence[str | Path]) -> list[Arm]:
    """Groups runs by recipe but for its seed, in the order in which recipes come; what has none stands by itself."""
    groups: dict[str, list[Path]] = {}
    for run in map(Path, runs):
        recipe = _recipe(run)
        groups.setdefault(_group(run, recipe) if recipe else f"no recipe: {run}", []).append(run)
    return [arm(group) for group in groups.values()]


def _arm(folders: list[Path], training: list[int | None], label: str | None) -> Arm:
    if len(set(training)) < len(training):
        again = next(seed for i, seed in enumerate(training) if seed in training[:i])
        which = "no training seed" if again is None else f"training seed {again}"
        raise InputError(f"{folders[0]} and the others: two runs with {which}; give one run for each")
    order = sorted(range(len(folders)), key=lambda i: -1 if training[i] is None else int(training[i] or 0))
    loaded = [Scores.load(folders[i]) for i in order]
    for other, place in zip(loaded, order, strict=True):
        _same(loaded[0].task, loaded[0].seeds, folders[order[0]], other.task, other.seeds, folders[place])
        mazes = [one.notes.get("environment") for one in (loaded[0], other)]
        _same_maze(mazes[0], folders[order[0]], mazes[1], folders[place])
    return Arm(
        label=label or loaded[0].title,
        runs=tuple(folders[i] for i in order),
        training=tuple(training[i] for i in order),
        task=loaded[0].task,
        starts=loaded[0].seeds,
        latched=np.stack([scores.latched_score for scores in loaded]),
        raw=np.stack([scores.raw_score for scores in loaded]),
        environment=loaded[0].notes.get("environment"),
    )


def _same(
    task: str, starts: np.ndarray, name: object, other_task: str, other_starts: np.ndarray, other_name: object
) -> None:
    """Refuses evaluations that cannot be paired."""
    if task != other_task:
        raise InputError(f"{name} was evaluated on {task}, {other_name} on {other_task}: only one task compares")
    if not np.array_equal(starts, other_starts):
        raise InputError(
            f"{name} has {_span(starts)}, {other_name} has {_span(other_starts)}: evaluate both on the same starts"
        )


def _same_maze(maze: Any, name: object, other: Any, other_name: object) -> None:
    """Refuses mazes that have one name and are not the same, as far as both are known."""
    if maze is not None and other is not None and maze != other:
        odd = ", ".join(key for key in maze if maze.get(key) != other.get(key))
        raise InputError(f"{name} and {other_name} were evaluated in mazes of one name that differ ({odd})")


def _span(starts: np.ndarray) -> str:
    return f"{len(starts)} starts, seeds {starts[0]} to {starts[-1]}"


@dataclass(frozen=True)
class Comparison:
    """`a` against `b`: the effect `paired.difference` is a's mean score less b's. `corrected_p` is p after Holm."""

    a: Arm
    b: Arm
    which: Which
    mean_a: Interval
    mean_b: Interval
    paired: Paired
    corrected_p: float
    arms: int = 1

    @property
    def indicative(self) -> bool:
        """Whether there are too few training seeds for more than an indication."""
        return self.paired.indicative

    def lines(self) -> list[str]:
        """The effect and its interval first, then how sure."""
        return [
            _heading(self.a, self.which),
            _mean_line(self.a, self.mean_a),
            _mean_line(self.b, self.mean_b),
            *self.effect(),
        ]

    def effect(self) -> list[str]:
        """The difference in words."""
        found = self.paired.difference
        effect = f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
        lines = [f"{self.a.label} - {self.b.label}: {effect}  ({found.level:.0%}, bootstrap over {found.over})"]
        if self.paired.t is not None:
            corrected = f", {self.corrected_p:.3g} after Holm over {self.arms} comparisons" if self.arms > 1 else ""
            low, high = self.paired.t
            lines.append(f"  over {_seeds(found.seeds)}: [{low:+.1f}, {high:+.1f}] by Student's t")
            least = f"it cannot fall below {self.paired.smallest_p:.3g}"
            lines.append(f"  sign-flip p {self.paired.p:.3g}{corrected} ({least})")
        if self.indicative:
            lines.append(f"  indicative: {_seeds(found.seeds)}, more than {FEW} are needed for a test that can tell")
        if self.a.starts[0] < TUNING:
            lines.append(f"  on starts below seed {TUNING}, which are for tuning: confirm on others")
        return lines

    def json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "task": self.a.task,
            "score": self.which,
            "starts": [int(self.a.starts[0]), int(self.a.starts[-1]), len(self.a.starts)],
            "a": _arm_json(self.a, self.mean_a),
            "b": _arm_json(self.b, self.mean_b),
            **self.paired.json(),
            "corrected_p": self.corrected_p,
            "comparisons": self.arms,
        }


@dataclass(frozen=True)
class Table:
    """Several arms, each against the first; p-values corrected by Holm over the comparisons."""

    arms: list[Arm]
    means: list[Interval]
    which: Which
    against_first: list[Comparison]

    def lines(self) -> list[str]:
        """Every arm's mean, then every effect: the other less the first."""
        means = [_mean_line(one, mean) for one, mean in zip(self.arms, self.means, strict=True)]
        said = [f"each less the first, {self.arms[0].label}:"] if self.against_first else []
        effects = [line for c in self.against_first for line in c.effect()]
        return [_heading(self.arms[0], self.which), *means, *said, *effects]

    def json(self) -> dict[str, Any]:
        """For machines."""
        means = [_arm_json(one, mean) for one, mean in zip(self.arms, self.means, strict=True)]
        effects = [comparison.json() for comparison in self.against_first]
        return {"task": self.arms[0].task, "score": self.which, "arms": means, "against_first": effects}


def compare(
    runs_a: Runs | Arm, runs_b: Runs | Arm, *, score: Which = "latched", level: float = 0.95, seed: int = 0
) -> Comparison:
    """Compares two arms on the same task, the same starts and the same training seeds.

    An arm is a run's folder, or one folder for each training seed. What was never trained (no `recipe.json` with a
    seed) is paired with every training seed of the other.
    """
    a, b = told_apart([runs if isinstance(runs, Arm) else arm(runs) for runs in (runs_a, runs_b)])
    _same(a.task, a.starts, a.label, b.task, b.starts, b.label)
    _same_maze(a.environment, a.label, b.environment, b.label)
    x, y = a.scores(score), b.scores(score)
    mean_a, mean_b = (interval(rows, same_starts=True, level=level, seed=seed) for rows in (x, y))
    found = paired(*_paired_rows(a, x, b, y), same_starts=True, level=level, seed=seed)
    return Comparison(a, b, score, mean_a, mean_b, found, found.p)


def table(groups: Sequence[Runs | Arm], *, score: Which = "latched", level: float = 0.95, seed: int = 0) -> Table:
    """Compares every arm with the first. To group a list of runs by their recipes, give `arms(runs)`."""
    if not groups:
        raise InputError("compare: give a run at least")
    read = told_apart([runs if isinstance(runs, Arm) else arm(runs) for runs in groups])
    found = [compare(one, read[0], score=score, level=level, seed=seed) for one in read[1:]]
    corrected = holm([comparison.paired.p for comparison in found])
    comparisons = [
        Comparison(c.a, c.b, c.which, c.mean_a, c.mean_b, c.paired, p, len(found))
        for c, p in zip(found, corrected, strict=True)
    ]
    means = [interval(one.scores(score), same_starts=True, level=level, seed=seed) for one in read]
    return Table(read, means, score, comparisons)


def told_apart(groups: Sequence[Arm]) -> list[Arm]:
    """Arms with labels that differ: where two are alike, with the recipe's fields in which these arms differ or, if
    that does not tell them apart either, with their folders.
    """
    labels = [one.label for one in groups]
    alike = [one for one in groups if labels.count(one.label) > 1]
    fields = {one.runs: _fields(one) for one in alike}
    names = sorted({name for own in fields.values() for name in own})
    odd = [name for name in names if len({own.get(name) for own in fields.values()}) > 1]
    new = {runs: ", ".join(f"{name} {own.get(name, 'none')}" for name in odd) for runs, own in fields.items()}
    if not 0 < len(odd) <= FIELDS or len(set(new.values())) < len(new):
        new = {one.runs: _folder(one, alike) for one in alike}
    return [replace(one, label=f"{one.label} ({new[one.runs]})") if one.runs in new else one for one in groups]


def _fields(one: Arm) -> dict[str, str]:
    """The recipe's fields, each as text; none where nothing was trained."""
    fields = (_recipe(one.runs[0]) or {}).get("fields")
    own = fields.items() if isinstance(fields, dict) else ()
    return {name: json.dumps(value).strip('"') for name, value in own if name != "seed"}


def _folder(one: Arm, others: Sequence[Arm]) -> str:
    """The folder of an arm's first run, as short as tells it from the others'."""
    names = [other.runs[0].resolve().name for other in others]
    own = one.runs[0].resolve().name
    return own if names.count(own) == 1 else str(one.runs[0])


def _paired_rows(a: Arm, x: np.ndarray, b: Arm, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with a row for each training seed."""
    if a.fixed or b.fixed:
        rows = max(len(x), len(y))
        return np.repeat(x, rows // len(x), axis=0), np.repeat(y, rows // len(y), axis=0)
    if a.training != b.training:
        seeds = [", ".join(map(str, one.training)) for one in (a, b)]
        raise InputError(
            f"{a.label} has training seeds {seeds[0]}, {b.label} has {seeds[1]}: train and give the same seeds of both"
        )
    return x, y


def _heading(one: Arm, which: Which) -> str:
    return f"{one.task}, {which} score, {_span(one.starts)}"


def _mean_line(one: Arm, mean: Interval) -> str:
    return f"{one.label}: {mean}  ({'not trained' if one.fixed else _seeds(len(one.training))})"


def _seeds(count: int) -> str:
    return f"{count} training seed{'s' if count > 1 else ''}"


def _arm_json(one: Arm, mean: Interval) -> dict[str, Any]:
    return {
        "label": one.label,
        "runs": [str(run) for run in one.runs],
        "training_seeds": list(one.training),
        "mean": mean.json(),
    }


def _recipe(folder: Path) -> dict[str, Any] | None:
    """What was trained there; None where nothing was."""
    path = folder / "recipe.json"
    if not path.exists():
        return None
    return read_object(path, FORM)


def _seed(recipe: dict[str, Any] | None) -> int | None:
    """The training seed, which stands beside the recipe's fields or among them."""
    if recipe is None:
        return None
    fields = recipe.get("fields")
    return recipe.get("seed", fields.get("seed") if isinstance(fields, dict) else None)


def _group(folder: Path, recipe: dict[str, Any] | None) -> str:
    """What the runs of an arm have in common: the recipe, and what their evaluations put in its place."""
    return json.dumps([_identity(recipe), remarks(read_words(folder) or {})])


def _identity(recipe: dict[str, Any] | None) -> str:
    """A recipe without its training seed. The environment is left out: evaluations tell theirs, and runs of earlier
    versions do not.
    """
    words = {key: value for key, value in (recipe or {}).items() if key not in ("seed", "environment")}
    if isinstance(words.get("fields"), dict):
        words["fields"] = {key: value for key, value in words["fields"].items() if key != "seed"}
    return json.dumps(words, sort_keys=True)
