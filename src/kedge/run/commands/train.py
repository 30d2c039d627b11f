"""`kedge train RECIPE`: any recipe, any environment that it fits; every field of the recipe is a flag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from kedge.errors import InputError
from kedge.run.commands.command import Command, Outcome, environment, short
from kedge.run.commands.named import Named, named
from kedge.run.commands.runs import finished, fits, identity, refuse_another
from kedge.train.progress import announce

MAZE, KITCHEN = 2_000_000, 137_000
"""Steps of demonstrations, unless told otherwise."""
WIDE = 128
"""Channels from which on a network has work for several threads."""

RECIPES = {
    "fv": "FV", "dv": "DV", "diffuser": "Diffuser", "cdiffuser": "CDiffuser", "decision-diffuser": "DecisionDiffuser",
    "hierarchical": "Hierarchical", "diffusion-drive": "DiffusionDrive", "closd": "CLoSD", "mtdiff": "MTDiff",
    "ditree": "DiTree", "navdp": "NavDP", "diffusion-policy": "DiffusionPolicy", "td3-bc": "TD3BC", "iql": "IQL",
    "dwm": "DWM", "policy-guided-diffusion": "PolicyGuidedDiffusion",
}  # fmt: skip

HELP = """usage: kedge train RECIPE [flags]

Trains a recipe on logged behaviour. A run that was interrupted goes on where it stood; one that is finished says so.

recipes that plan:
  fv                 variational weighting on the trigonometric path, 5 evaluations a plan; minutes on a CPU
  dv                 Diffusion Veteran to the letter: a transformer, 20 evaluations; meant for a GPU
  diffuser           a U-Net guided by a value, the goal pinned
  cdiffuser          the same, pulled toward states of high returns while it is trained
  decision-diffuser  states given the return that they are to bring; actions by inverse dynamics
  hierarchical       subgoals, and the way between them
  diffusion-drive    from clustered anchors, in two steps from a little noise
  closd              plans from what was executed, 10 evaluations, at a high rate
  ditree             a tree of motions whose edges a flow policy draws from its surroundings
  navdp              short ways from the surroundings, ranked by a clearance that is learned

recipes that act without a plan:
  diffusion-policy   what was done next, denoised given what is seen, a chunk at a time
  mtdiff             actions given a demonstration of the task and the return; one model for many tasks
  td3-bc             a policy near to what was logged that climbs a critic
  iql                implicit Q-learning: of what was logged, what did well
  dwm                TD3+BC or IQL whose critics look ahead by a world model that denoises several steps at once
  policy-guided-diffusion
                     ... on trajectories of behaviour that are pulled to the policy as it learns

kedge train RECIPE --help lists the flags, one for each field of the recipe.
"""


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """What is trained on, beside the recipe itself."""

    env: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The environment: maze2d-umaze, maze2d-medium, maze2d-large, a text file that draws a maze, kitchen-partial,
    kitchen-mixed or kitchen-complete. By default maze2d-large, unless --data is given."""
    data: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Logged behaviour to learn from: .npz, D4RL's .hdf5, a zarr store, a Minari set, a folder that kedge has saved. By
    default the environment's own demonstrations."""
    demonstrations: int | None = None
    """How many steps of demonstrations to make where no --data is given: by default 2,000,000 in a maze, 137,000 in a
    kitchen. They are made once and kept in the cache."""
    data_seed: int = 0
    """The seed of the demonstrations: runs of several --seed learn from the same ones."""
    goal: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="X Y")] = None
    """Another goal in the maze than its own, by row and column."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What networks compute in while they are trained; their weights stay in full precision."""
    compile: bool = False
    """Compile the networks before they are trained: half a minute that pays on a GPU, and in long trainings."""
    shard: bool = False
    """Divide parameters, optimisers and averages among the processes that torchrun has started, instead of keeping all
    of them in each."""

    def run(self, recipe: Any, name: str) -> Outcome:
        """Opens or makes the data, and trains."""
        return self.carried_out(recipe, name)

    def carried_out(self, recipe: Any, name: str, watch: Callable[[Any], Any] | None = None) -> Outcome:
        """The same; `watch` gives a sink that sees the training as it goes on."""
        device = self.place(wide=getattr(recipe, "width", 0) >= WIDE)
        from kedge.train.crew import joined
        from kedge.train.shards import several

        together = joined()
        if self.shard:
            several(together)
        task = environment(self.env or "maze2d-large", self.goal) if self.env or not self.data else None
        if self.goal is not None and task is None:
            raise InputError("--goal moves the goal of a maze: give --env as well")
        if self.data is None and self.demonstrations is not None and self.demonstrations < 1:
            raise InputError(f"--demonstrations must be at least 1, got {self.demonstrations}")
        where = task.name if task is not None else Path(str(self.data)).stem
        out = self.out or Path("runs") / default_name(name, where, self.seed)
        refuse_another(out, identity(recipe, self.seed, task, self._settings(task)))
        done = _finished(out, recipe)
        if done is None or self.data is not None:
            with together.in_turn():  # the first makes what the others find in the cache
                logs = self._logs(task)
            self.check(recipe, task, logs)
            device = together.device(device)
            how = {"device": device, "precision": self.precision, "compile": self.compile, "shard": self.shard}
            trained(recipe, logs, out, task, self.seed, self.data, watch, **how)
        lines = [done or f"trained: {short(out)}", f"next: kedge eval {short(out)}"]
        found = {"run": str(out), "recipe": name, "env": task.name if task else None}
        return Outcome(lines, found | {"finished_before": bool(done)})

    def check(self, recipe: Any, task: Any, logs: Any) -> None:
        """One line where recipe, task and data do not belong together."""
        if task is not None:
            width = logs.dimensions
            fits(task, width.observation, width.action, f"{self.data or 'the demonstrations'}: the data have")
        recipe.check(logs)
        if note := short_episodes(recipe, logs):
            announce(note)

    def _settings(self, task: Any) -> dict[str, Any] | None:
        if self.data is not None:
            return None
        return task.demonstrated(self._steps(task), self.data_seed)

    def _steps(self, task: Any) -> int:
        """How many steps of demonstrations are made."""
        return (
            (KITCHEN if task.name.startswith("kitchen-") else MAZE)
            if self.demonstrations is None
            else self.demonstrations
        )

    def _logs(self, task: Any) -> Any:
        if self.data is not None:
            import kedge.data

            return kedge.data.open(self.data)
        return demonstrations(task, self._steps(task), self.data_seed)


def trained(
    recipe: Any,
    logs: Any,
    out: Path,
    task: Any,
    seed: int,
    data: str | None = None,
    watch: Callable[[Any], Any] | None = None,
    **how: Any,
) -> None:
    """Trains into a folder, which tells from the beginning for what task that is and, of data of one's own, where they
    lie. `watch` gives a sink for the training that it is handed. `how`: on what device, in what precision, whether
    compiled.
    """
    from kedge.run.recorded import named_for

    training = recipe.training(logs, out, seed=seed, progress=True, task=named_for(out, task), **how)
    if data is not None and training.trainer.crew.first:
        remember(out, data)
    if watch is not None and training.trainer.crew.first:
        training.trainer.sinks.append(watch(training))
    training.trainer.train()


def short_episodes(recipe: Any, logs: Any) -> str | None:
    """A line where no episode is as long as a plan."""
    if not hasattr(recipe, "candidates"):  # it plans nothing
        return None
    horizon, stride = getattr(recipe, "horizon", 2), getattr(recipe, "stride", 1)
    longest, span = int(logs.lengths.max()), (horizon - 1) * stride + 1
    if longest >= span:
        return None
    return (
        f"note: the longest episode has {longest} steps and a plan spans {span} ({horizon} points, {stride} steps "
        "apart): what is missing is filled with rest; --horizon and --stride make plans shorter"
    )


def remember(out: Path, data: str) -> None:
    """Notes where the data lie: the rows beside a score look for the nearest of them."""
    from kedge.run.recorded import SOURCE
    from kedge.train.checkpoint import save_json

    path = Path(data).expanduser()
    save_json(out / SOURCE, {"data": str(path.resolve()) if path.exists() else data})


def parse(args: Sequence[str]) -> Named:
    """The recipe by its name, and its fields and the common flags side by side."""
    return named(args, "train", "recipe", RECIPES, Train, HELP)


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
    if not finished(out, recipe):
        return None
    return f"{short(out)} is finished: trained {recipe.steps:,} of {recipe.steps:,} steps, nothing to do"
