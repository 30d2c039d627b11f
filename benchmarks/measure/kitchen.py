"""Planners and cloning in the scripted kitchens: chores done against training steps, arm by arm and seed by seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kedge import recipes
from kedge.data import Trajectories
from kedge.envs import Kitchen
from kedge.run.evaluate import REPORTING, evaluate
from kedge.run.scores import Scores
from measure.jobs import Job, Store, plain
from measure.planning import Scale, known, recipe
from measure.trained import Kept, followed

SEEDS, TASKS = (0, 1, 2), ("partial", "mixed")
DEMONSTRATIONS = 137_000
EPISODES, STARTS = 100, 20
"""In the end, and on the way."""
SHARES = (0.1, 0.2, 0.5, 1.0)
"""Of the training, after which it is looked at. The second one is the fifth in which FV claims what DV needs all of."""
STEPS = 6000
CANDIDATES = 16


@dataclass(frozen=True)
class Arm:
    """A row of the table.

    recipe: its name in `kedge.recipes`
    fields: what is otherwise than `suited` to the kitchen
    acting: what is otherwise in the agent, once trained
    gpu:    whether it is only run where there is a GPU
    """

    recipe: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    gpu: bool = False


SHARED = {"steps": STEPS, "candidates": CANDIDATES}
"""As FV has them there."""
NETWORK = {"net": "dit", "width": 128, "depth": 2, "horizon": 16}
"""The network and the plan that FV has there: an arm that has them too differs in the rest alone."""
ARMS: dict[str, Arm] = {
    "fv": Arm("FV"),
    "dv": Arm("DV", {**SHARED, **NETWORK, "batch": 64, "replan": 4, "critic_rate": 1e-3, "rate": 1e-3}),
    "diffuser": Arm(
        "Diffuser",
        {**SHARED, "horizon": 16, "mults": (1, 2), "width": 64, "evaluations": 16, "rate": 2e-3, "decay": "linear"},
    ),
    "cloned": Arm("DiffusionPolicy"),
    "regressed": Arm("DiffusionPolicy", {"evaluations": 1}),
    "letter": Arm("DV", {}, gpu=True),
    "fv-40k": Arm("FV", {"steps": 40_000}, gpu=True),
}
"""One line a planner. The last two are the claim itself: DV as its authors trained it, and FV for 40,000 steps."""


def jobs(scale: Scale) -> list[Job]:
    """Both tasks within a seed, so that the whole table has its first seed first."""
    return [
        Job(f"{name}-{task}-{seed}", settings(scale, name, task, seed), gpu=arm.gpu, alone=arm.gpu)
        for seed in SEEDS
        for task in TASKS
        for name, arm in ARMS.items()
    ]


def settings(scale: Scale, name: str, task: str, seed: int) -> dict[str, Any]:
    """All that a job's result depends on."""
    less = {"steps": 10, "batch": 8, "width": 32, "candidates": 2, "evaluations": 2} if scale.small else {}
    made = suited(ARMS[name], task, less)
    return {
        "kind": "curve",
        "scale": scale.name,
        "arm": name,
        "task": task,
        "seed": seed,
        "recipe": ARMS[name].recipe,
        "fields": plain(asdict(made)),
        "demonstrations": 2000 if scale.small else DEMONSTRATIONS,
        "checkpoints": sorted({max(1, round(share * made.steps)) for share in SHARES}),
        "starts": min(STARTS, scale.starts),
        "episodes": min(EPISODES, scale.episodes),
        "first_seed": REPORTING,
    }


def suited(arm: Arm, task: str, less: Mapping[str, Any]) -> Any:
    """The arm's recipe, suited to the kitchen."""
    kind = getattr(recipes, arm.recipe)
    there = {**arm.fields, **known(kind, less)}
    return kind.suited(Kitchen(task), **there) if hasattr(kind, "suited") else kind(**there)


def logged(settings: Mapping[str, Any], store: Store) -> tuple[Kitchen, Trajectories]:
    """The kitchen and its demonstrations; the first process that wants them makes them, the others wait."""
    kitchen = Kitchen(settings["task"])
    with store.held("demonstrations-kitchen", wait=True):
        return kitchen, kitchen.demonstrations(settings["demonstrations"])


def curve(job: Job, store: Store) -> dict[str, Any]:
    """One training, looked at on the way. A killed one goes on from its last look."""
    settings = job.settings
    kitchen, logs = logged(settings, store)
    training = recipe(settings).training(
        logs, store.work(job) / "run", seed=settings["seed"], progress=False, task=kitchen.name
    )
    kept = Kept.of(store.work(job) / "kept.json")
    followed(training, kept, settings["checkpoints"], lambda: looked_at(training, kitchen, settings, kept))
    last = kept.checkpoints[-1]
    done, cpu = np.mean(last["score"]), last["cpu"]
    return {
        "said": f"{settings['arm']} in {settings['task']}: {done:.1f}; {cpu:.0f} s of training",
        "checkpoints": kept.checkpoints,
    }


def looked_at(training: Any, kitchen: Kitchen, settings: Mapping[str, Any], kept: Kept) -> dict[str, Any]:
    """What the averaged weights do at this step."""
    step = training.trainer.step
    episodes = settings["episodes"] if step == settings["checkpoints"][-1] else settings["starts"]
    scores = evaluate(training.agent(), kitchen, episodes, first_seed=settings["first_seed"])
    return {"step": step, "wall": kept.wall, "cpu": kept.cpu, **found(scores)}


def found(scores: Scores) -> dict[str, Any]:
    """Episode by episode, so that arms can be paired: per cent of the four chores."""
    return {"score": np.round(scores.raw_score, 2).tolist(), "planning": scores.planning.json()}
