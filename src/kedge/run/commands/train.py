"""`kedge train RECIPE`: any recipe, any environment that it fits; every field of the recipe is a flag."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from kedge.errors import InputError
from kedge.run.commands.command import Command, Outcome, environment, parsed, short

RECIPES = {"fv": "FV", "dv": "DV", "diffuser": "Diffuser"}

HELP = """usage: kedge train RECIPE [flags]

Trains a recipe on logged behaviour. A run that was interrupted goes on where it stood; one that is finished says so.

recipes:
  fv        variational weighting on the trigonometric path, 5 evaluations a plan; minutes on a CPU
  dv        Diffusion Veteran to the letter: a transformer, 20 evaluations; meant for a GPU
  diffuser  a U-Net guided by a value, the goal pinned

kedge train RECIPE --help lists the flags, one for each field of the recipe.
"""


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """What is trained on, beside the recipe itself."""

    env: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The environment: maze2d-umaze, maze2d-medium, maze2d-large, or a text file that draws a maze. By default
    maze2d-large, unless --data is given."""
    data: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Logged behaviour to learn from: .npz, D4RL's .hdf5, a zarr store, a Minari set, a folder that kedge has saved. By
    default the environment's own demonstrations."""
    demonstrations: int = 1_000_000
    """How many steps of demonstrations to make where no --data is given. They are made once and kept in the cache."""

    def run(self, recipe: Any, name: str) -> Outcome:
        """Opens or makes the data, and trains."""
        device = self.place()
        task = environment(self.env or "maze2d-large") if self.env or not self.data else None
        logs = self._logs(task)
        where = task.name if task is not None else Path(str(self.data)).stem
        out = self.out or Path("runs") / default_name(name, where, self.seed)
        said = _finished(out, recipe)
        recipe.train(logs, run=out, seed=self.seed, device=device, progress=True, task=task.name if task else None)
        lines = [said or f"trained: {short(out)}", f"next: kedge eval {short(out)}"]
        return Outcome(
            lines, {"run": str(out), "recipe": name, "env": task.name if task else None, "finished_before": bool(said)}
        )

    def _logs(self, task: Any) -> Any:
        if self.data is not None:
            import kedge.data

            return kedge.data.open(self.data)
        if self.demonstrations < 1:
            raise InputError(f"--demonstrations must be at least 1, got {self.demonstrations}")
        return demonstrations(task, self.demonstrations, self.seed)


@dataclass(frozen=True)
class Bound:
    """A recipe with its flags: what the command line is parsed into."""

    recipe: Any
    flags: Train
    name: str

    @property
    def json(self) -> bool:
        """Whether the result is wanted as JSON."""
        return self.flags.json

    def run(self) -> Outcome:
        """Trains."""
        return self.flags.run(self.recipe, self.name)


def parse(args: Sequence[str]) -> Bound:
    """The recipe by its name, and its fields and the common flags side by side."""
    if not args or args[0] in ("-h", "--help"):
        (sys.stdout if args else sys.stderr).write(HELP)
        raise SystemExit(0 if args else 2)
    name = args[0].lower()
    if name not in RECIPES:
        raise InputError(f"there is no recipe {args[0]!r}; known are {', '.join(RECIPES)}")
    import kedge.recipes

    recipe = getattr(kedge.recipes, RECIPES[name])
    fields = [
        ("recipe", recipe, dataclasses.field(default_factory=recipe)),
        ("flags", Train, dataclasses.field(default_factory=Train)),
    ]
    both = dataclasses.make_dataclass(f"train {name}", fields, namespace={"__doc__": recipe.__doc__}, frozen=True)
    found = parsed(both, args[1:], f"train {name}")
    return Bound(found.recipe, found.flags, name)


def default_name(recipe: str, where: str, seed: int) -> str:
    """`fv-large`; `fv-large-1` for seed 1."""
    return f"{recipe}-{where.removeprefix('maze2d-')}" + (f"-{seed}" if seed else "")


def demonstrations(task: Any, steps: int, seed: int, cache: Path | None = None) -> Any:
    """The environment's own logs, with a bar while they are made."""
    from kedge.run.commands.bar import Bar

    with Bar(f"demonstrations in {task.name}") as bar:
        return task.demonstrations(steps=steps, seed=seed, cache=cache, progress=bar)


def _finished(out: Path, recipe: Any) -> str | None:
    """A line where the run is finished already."""
    from kedge.run.commands.runs import trained_steps

    done, steps = trained_steps(out), getattr(recipe, "steps", None)
    if done is None or steps is None or done < steps:
        return None
    return f"{short(out)} is finished: trained {done:,} of {steps:,} steps. Nothing to do; more --steps prolong it"
