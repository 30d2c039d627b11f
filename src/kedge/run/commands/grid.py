"""`kedge grid fit RUN` and `kedge grid list RUN`: where a run's walks stop, fitted to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from kedge.errors import InputError
from kedge.run.commands.command import Command, Outcome, parsed, short
from kedge.run.commands.runs import logs_of, planning, recipe_of

HELP = """usage: kedge grid fit RUN [flags]
       kedge grid list RUN [flags]

Fits the noise scales at which a planner's walks stop, or lists those that were fitted; kedge eval RUN --grid NAME
uses one.
kedge grid fit --help lists the flags.
"""


@dataclass(frozen=True, kw_only=True)
class Fit(Command):
    """Finds the noise scales at which a planner's short walks come nearest to its long ones, on walks from states of
    the run's data; nothing of the run is changed. The grid is stored beside the weights, as grids/NAME.safetensors and
    grids/NAME.json, with the errors of other grids on starts that it has not seen.
    """

    folder: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN", help="The folder of the run.")
    ]
    steps: Annotated[int, tyro.conf.arg(metavar="N")] = 5
    """Network evaluations of a walk."""
    method: Literal["gits", "ays", "ld3", "tangent"] = "gits"
    """gits: by the shape of trajectories, in seconds. ays: by a bound on the relative entropy, for walks with noise.
    ld3: by the gradient through the walk, in minutes. tangent: by the spectrum of plans."""
    samples: Annotated[int, tyro.conf.arg(metavar="N")] = 256
    """Plans by which the grid is found, and as many on which it is tried."""
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """What the grid is called; by default its method and steps, such as gits-5."""
    data: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """What the run learned from, where it is no longer in its place: walks begin at its states."""

    def run(self) -> Outcome:
        """Loads, walks, fits, writes."""
        device = self.place()
        told = recipe_of(self.folder)
        from kedge.distill.run_grids import save_grid
        from kedge.recipes.grid import FitGrid, planner_of
        from kedge.run.notes import notes_of
        from kedge.train.progress import announce

        way, name = FitGrid(self.steps, self.method, self.samples), self.name or f"{self.method}-{self.steps}"
        agent = planning(self.folder, device, "kedge grid")
        announce(f"{short(self.folder)}: {2 * self.samples} long walks from states of its data, and {name} by them")
        found = way.fit(agent, logs_of(self.folder, told, self.data), self.seed)
        about = {
            "method": self.method, "steps": self.steps, "solver": str(planner_of(agent).solver), "seed": self.seed,
            "samples": self.samples, "agent": notes_of(self.folder, told, {})["agent"], "low": found.low,
            "high": found.high, "errors": found.errors,
        }  # fmt: skip
        paths = save_grid(self.out or self.folder, name, found.grid, about)
        lines = [
            f"fitted: {', '.join(short(path) for path in paths)}",
            f"noise scales: {_scales(found.grid.scales)}, then clean",
            *_errors(found.errors),
            f"next: kedge eval {short(self.out or self.folder)} --grid {name}",
        ]
        said = {"run": str(self.folder), "name": name, "scales": list(found.grid.scales), "told": list(found.grid.told)}
        return Outcome(lines, {**said, "errors": found.errors, "files": [str(path) for path in paths]})


@dataclass(frozen=True, kw_only=True)
class List(Command):
    """Lists the grids that were fitted to a run."""

    folder: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN", help="The folder of the run.")
    ]

    def run(self) -> Outcome:
        """Reads."""
        self.place()
        recipe_of(self.folder)
        from kedge.distill.run_grids import grids_of, load_grid

        found: dict[str, Any] = {}
        lines: list[str] = []
        for name in grids_of(self.folder):
            grid, about = load_grid(self.folder, name)
            found[name] = about
            lines.append(f"{name}: {_scales(grid.scales)}")
        if not lines:
            lines = [f"{short(self.folder)} has no fitted grid: kedge grid fit {short(self.folder)} makes one"]
        return Outcome(lines, {"run": str(self.folder), "grids": found})


def _scales(scales: Sequence[float]) -> str:
    return ", ".join(f"{scale:.4g}" for scale in scales)


def _errors(errors: dict[str, float]) -> list[str]:
    """A line for each grid, the nearest first."""
    width = max(map(len, errors))
    return [
        "distance from long walks, on starts that were not fitted to:",
        *(f"  {name:<{width}}  {error:.4f}" for name, error in sorted(errors.items(), key=lambda one: one[1])),
    ]


def parse(args: Sequence[str]) -> Fit | List:
    """`fit` or `list`, and its flags."""
    if not args or args[0] in ("-h", "--help"):
        (sys.stdout if args else sys.stderr).write(HELP)
        raise SystemExit(0 if args else 2)
    known: dict[str, type[Fit] | type[List]] = {"fit": Fit, "list": List}
    if args[0] not in known:
        raise InputError(f"kedge grid: there is no {args[0]!r}; it is kedge grid fit RUN or kedge grid list RUN")
    return parsed(known[args[0]], args[1:], f"grid {args[0]}")
