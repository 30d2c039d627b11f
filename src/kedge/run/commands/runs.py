"""What commands ask of a run's folder before they load anything heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kedge.errors import InputError
from kedge.run.commands.command import environment


def recipe_of(folder: Path) -> dict[str, Any]:
    """The recipe of a run; one line where the folder is none."""
    path = folder / "recipe.json"
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give the folder of a run, such as runs/fv-large")
    if not path.is_file():
        raise InputError(f"{folder}: not a run's folder (it has no recipe.json); give one that `kedge train` has made")
    from kedge.recipes.loading import read_recipe

    return read_recipe(folder)


def refuse_another(folder: Path, known: Mapping[str, Any]) -> None:
    """Refuses a folder that holds another run, before any long work: as far as is known by now what this one is."""
    if not (folder / "recipe.json").is_file():
        return
    from kedge.train import RefusedError
    from kedge.train.checkpoint import differences, plain

    here, there = plain(known, "recipe"), recipe_of(folder)
    if "environment" not in there:  # a run of an earlier version
        here.pop("environment", None)
    if odd := differences(_like(there, here), here):
        raise RefusedError(f"{folder} belongs to another recipe ({'; '.join(odd)}): choose another folder")


def identity(recipe: Any, seed: int, task: Any, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a run is, as far as it is known before its data are there: as `recipe.json` says it.

    Args:
        recipe: with its fields.
        seed: of the training.
        task: the environment.
        settings: by which demonstrations would be made, None for other data.
    """
    from kedge.run.recorded import environment_of

    known: dict[str, Any] = {"recipe": type(recipe).__name__, "fields": asdict(recipe), "seed": seed}
    known |= {"task": None if task is None else task.name}
    if (environment := environment_of(task)) is not None:
        known |= {"environment": environment}
    return known if settings is None else known | {"data": {"provenance": {"settings": settings}}}


def _like(there: Any, here: Any) -> Any:
    """`there`, of which only what `here` has too is looked at."""
    if not isinstance(there, Mapping) or not isinstance(here, Mapping):
        return there
    return {key: _like(there[key], value) for key, value in here.items() if key in there}


def check_fit(folder: Path, task: Any) -> None:
    """One line where a run was trained on other states or actions than an environment has."""
    sizes = recipe_of(folder).get("sizes")
    if isinstance(sizes, Mapping):
        state, action = sizes.get("state"), sizes.get("action")
        if not (isinstance(state, int) and isinstance(action, int)):
            raise InputError(f"{folder}/recipe.json: sizes has no whole numbers for state and action; was it edited?")
        fits(task, state, action, f"{folder} was trained on")


def fits(task: Any, state: int, action: int, what: str) -> None:
    """One line where these are not an environment's numbers of states and actions."""
    of = task.observation_space.shape[0], task.action_space.shape[0]
    if of != (state, action):
        raise InputError(
            f"{what} states of {state} and actions of {action} numbers, but {task.name} has {of[0]} and {of[1]}: "
            "they do not fit; give another --env"
        )


def planning(folder: Path, device: str | None, what: str, also: type | None = None) -> Any:
    """The agent of a run; one line where it acts without a plan, and `what` wants one, or one of the kind `also`."""
    import kedge
    from kedge.plan import Agent

    agent = kedge.load(folder, device) if device else kedge.load(folder)
    if not isinstance(agent, Agent if also is None else (Agent, also)):
        raise InputError(f"{folder} acts step by step and plans nothing ({agent.label}): {what} works on plans")
    return agent


def finished(folder: Path, recipe: Any) -> bool:
    """Whether a run's weights are of its recipe's last step: the checkpoints may be ahead of them, where a process was
    killed between the two.
    """
    from kedge.run.notes import WEIGHTS
    from kedge.train.checkpoint import weights_step

    done, steps = weights_step(folder / WEIGHTS), getattr(recipe, "steps", None)
    return done is not None and steps is not None and done >= steps


def given_data(folder: Path, data: str) -> Any:
    """What --data names, if it is what a run has learned from."""
    import kedge.data
    from kedge.run.recorded import other_data

    logs = kedge.data.open(data)
    if odd := other_data(folder, recipe_of(folder), logs):
        raise InputError(f"--data {data}: {odd}; give what it was trained on, or leave --data out")
    return logs


def logs_of(folder: Path, told: Mapping[str, Any], data: str | None) -> Any:
    """What a run has learned from: what --data names, or what the run itself remembers."""
    from kedge.run.recorded import recorded_logs

    if data is not None:
        return given_data(folder, data)
    logs = recorded_logs(folder, told)
    if isinstance(logs, str):
        raise InputError(f"{folder}: {logs}; give --data")
    return logs


def task_of(folder: Path, given: str | None) -> Any:
    """The environment to evaluate in: the one given, or the one that the run was trained for."""
    if given:
        return environment(given)
    from kedge.run.recorded import recorded_task

    task = recorded_task(recipe_of(folder))
    if task is None:
        raise InputError(f"{folder} was trained on data of no known environment: say which with --env")
    return task
