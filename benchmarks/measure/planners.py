"""Every planner in one maze, as it was and changed after its logs were made: score, success, what is broken, the time a
plan takes, the time a training takes.

An arm is a training, or one that it shares with other arms, and what is made of it when it is told of a change. A new
recipe joins by one line in `ARMS`.
"""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kedge import recipes
from kedge.constrain import Constraint, Feasible, OutsideBox, OutsideDisc
from kedge.data import Normaliser, Trajectories
from kedge.disk import read_json
from kedge.envs import Dynamics, Layout, Maze2D, Obstacle
from kedge.envs.layout import BALL
from kedge.errors import InputError
from kedge.guide import keep_out
from kedge.plan import Agent, Chase, Judge, ShortestPath
from kedge.run.evaluate import REPORTING, evaluate
from kedge.run.scores import Scores
from kedge.steer import Box, StayOff
from kedge.train.checkpoint import weights_step
from measure.finetuned import cloned
from measure.jobs import Job, Store, plain
from measure.planning import Scale, known, recipe
from measure.queue import ROOT
from measure.trained import logged, outcome, said
from measure.unseen import on_map

SEEDS, EPISODES = (0, 1, 2), 20
MAZE = "large"
ZONE = (4.75, 6.75, 5.25, 7.25)
"""The middle of a corridor that most shortest ways to the goal lead through; it can be passed on either side."""
WALL = Layout.of(MAZE).around((4, 6))
"""A cell through which all of the left half comes to the goal the usual way; the other way is twice as long from it."""
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "walls": {"walls": [list(WALL)]},
    "obstacle": {"obstacle": {"points": [[4.5, 7.0], [5.1, 7.0]], "radius": 0.2, "period": 100}},
    "zone": {"zones": [list(ZONE)]},
    "dynamics": {"dynamics": {"motors": 0.5, "damping": 5.0, "mass": 2.0}},
}
"""A corridor's cell is closed; a disc goes across a corridor and back in a second; a part of the corridor is to be kept
out of; half the thrust for twice the mass, and more damping."""
FEWER = 16
"""Candidates where each is projected, which is the dear part."""
CLONE = {"chunk": 8, "steps": 2000, "batch": 256, "width": 256, "depth": 3, "lr": 1e-3}
CLONE_WALK = {"levels": 10, "scale_min": 0.05, "scale_max": 20.0}
SLACK = 0.05
"""Metres that plans keep from what is constrained, for what the follower is off."""

Made = Callable[[Any, Maze2D], Any]


@dataclass(frozen=True)
class Arm:
    """A row of the table.

    recipe: what is trained: its name in `kedge.recipes`, "cloned" for behaviour cloning, or None
    fields: changes to it
    made:   what acts, of what was trained and of the maze as it is now
    among:  the changes that it has something to say to
    knows:  what it is told of a change, in the table's words
    """

    recipe: str | None
    fields: Mapping[str, Any] = field(default_factory=dict)
    made: Made = lambda agent, maze: agent.told(maze)
    among: tuple[str, ...] = tuple(CHANGES)
    knows: str = "candidates across it are not taken"


def boxed(maze: Maze2D) -> list[Constraint]:
    """The walls and zones that a constraint can speak of."""
    walls = [OutsideBox(x0 - BALL, y0 - BALL, x1 + BALL, y1 + BALL) for x0, y0, x1, y1 in maze.layout.drawn]
    return [*walls, *(OutsideBox(*zone) for zone in maze.changes.zones)]


def held(agent: Agent, maze: Maze2D, **how: Any) -> Agent:
    """Within constraints, in one of the ways."""
    return replace(agent, candidates=FEWER).within(*boxed(maze), tighten=SLACK, **how)


def guided(agent: Agent, maze: Maze2D) -> Agent:
    """Plans are pulled out of the boxes, and judged by whether they are."""
    boxes = [*maze.layout.drawn, *maze.changes.zones]
    return agent.with_guide(*(keep_out(box, BALL) for box in boxes)).told(maze)


def tried(agent: Agent, maze: Maze2D) -> Agent:
    """The last steps of the walk go through the simulator of the maze as it is now."""
    return agent.told(maze).simulated(maze, steps=2)


def uphill(agent: Agent, maze: Maze2D) -> Agent:
    """The noise of plans is moved until they keep out of the zones."""
    costs = [StayOff(Box(*zone)) for zone in maze.changes.zones]
    return agent.told(maze).optimised(lambda plans: -torch.stack([cost(plans) for cost in costs]).sum(0), rate=0.3)


def surrounded(policy: Any, maze: Maze2D) -> Any:
    """It is shown the map as it is now, of which it looks at what is near."""
    return policy.within_map(maze.layout)


def alone(policy: Any, maze: Maze2D) -> Any:
    """It is told nothing."""
    return policy


class Around:
    """A shortest path on the map as it is now, where zones are walls; on the plain map where one is in a zone."""

    def __init__(self, maze: Maze2D) -> None:
        zones = maze.changes.zones
        layout = maze.layout.with_walls([*maze.layout.drawn, *zones]) if zones else maze.layout
        self.now, self.before = ShortestPath(layout), ShortestPath(maze.layout)
        self.horizon, self.stride, self.heeds = self.now.horizon, self.now.stride, False

    def propose(self, states: Any, seeds: Any, goal: Any = None, kept: Any = None, frames: Any = None) -> torch.Tensor:
        """See `kedge.plan.Proposer`."""
        found = []
        for state, seed in zip(states, seeds, strict=True):
            try:
                found.append(self.now.propose(state[None], seed[None]))
            except (InputError, KeyError):
                found.append(self.before.propose(state[None], seed[None]))
        return torch.cat(found)


def shortest(agent: Any, maze: Maze2D) -> Agent:
    """A* and P-D control: it has the map of now."""
    judge = Judge(None, Normaliser(torch.zeros(4), torch.ones(4)))
    return Agent(Around(maze), judge, Chase(), candidates=1, keep=False, name="astar")


BOXES, REST = ("walls", "zone"), ("plain", "walls", "obstacle", "dynamics")
SHORT_DV = {"steps": 1000, "batch": 64, "width": 96, "replan": 15, "candidates": 16}
SHORT_DIFFUSER = {
    "steps": 2000, "mults": (1, 2), "evaluations": 16, "candidates": 32, "rate": 2e-3, "atlas": 32, "octaves": 4,
}  # fmt: skip
NOTHING, NEAR = "nothing", "the map near it"
ARMS: dict[str, Arm] = {
    "astar": Arm(None, made=shortest, knows="the map of now"),
    "fv": Arm("FV"),
    "fv-untold": Arm("FV", made=alone, among=("walls", "obstacle", "zone"), knows=NOTHING),
    "search": Arm("FV", made=lambda agent, maze: agent.told(maze).searched(), among=("plain", *BOXES)),
    "guided": Arm("FV", made=guided, among=BOXES, knows="it pulls plans"),
    "dpcc": Arm("FV", made=held, among=BOXES, knows="plans satisfy it"),
    "dpcc-gradient": Arm("FV", made=partial(held, how="gradient"), among=BOXES, knows="its gradient"),
    "dpcc-late": Arm("FV", made=partial(held, below=0.0), among=BOXES, knows="finished plans satisfy it"),
    "physdiff": Arm("FV", made=tried, among=("plain", "walls", "dynamics"), knows="the simulator of now"),
    "dip": Arm("FV", made=uphill, among=("zone",), knows="the noise of plans keeps out"),
    "dv": Arm("DV", SHORT_DV),
    "diffuser": Arm("Diffuser", SHORT_DIFFUSER),
    "cdiffuser": Arm("CDiffuser", SHORT_DIFFUSER),
    "decision-diffuser": Arm("DecisionDiffuser"),
    "hierarchical": Arm("Hierarchical"),
    "diffusion-drive": Arm("DiffusionDrive"),
    "closd": Arm("CLoSD"),
    "mtdiff": Arm("MTDiff", made=alone, among=REST, knows=NOTHING),
    "ditree": Arm("DiTree", made=surrounded, among=REST, knows="map and physics of now"),
    "navdp": Arm("NavDP", made=lambda agent, maze: on_map(agent, maze.layout), among=REST, knows=NEAR),
    "td3-bc": Arm("TD3BC", made=alone, among=REST, knows=NOTHING),
    "iql": Arm("IQL", made=alone, among=REST, knows=NOTHING),
    "dwm": Arm("DWM", made=alone, among=REST, knows=NOTHING),
    "policy-guided-diffusion": Arm("PolicyGuidedDiffusion", made=alone, among=REST, knows=NOTHING),
    "cloned": Arm("cloned", made=alone, among=REST, knows=NOTHING),
}
"""One line a planner."""


def jobs(scale: Scale) -> list[Job]:
    """Change by change within a seed, so that the whole table has its first seed first; and the fuzz of zones."""
    shared = {
        "scale": scale.name,
        "maze": MAZE,
        "demonstrations": scale.demonstrations,
        "episodes": min(EPISODES, scale.episodes),
        "first_seed": REPORTING,
    }
    found = [
        Job(
            f"{name}-{change}-{seed}", {"kind": "planned", **shared, **settings(scale, arm, name, seed), **made(change)}
        )
        for seed in SEEDS
        for change in CHANGES
        for name, arm in ARMS.items()
        if change in arm.among and (arm.recipe is not None or seed == SEEDS[0])
    ]
    return [Job("fuzz", {"kind": "fuzz", "scale": scale.name, "zones": 20 if scale.small else 1000}), *found]


def made(change: str) -> dict[str, Any]:
    """What a job's settings say of a change."""
    return {"change": change, "changes": CHANGES[change]}


def settings(scale: Scale, arm: Arm, name: str, seed: int) -> dict[str, Any]:
    """What they say of an arm."""
    return {"arm": name, "seed": seed, "recipe": arm.recipe, "fields": fields_of(arm, scale.small)}


def fields_of(arm: Arm, small: bool) -> dict[str, Any]:
    """All of a recipe's fields, as JSON gives them back."""
    if arm.recipe is None:
        return {}
    if arm.recipe == "cloned":
        return {"clone": CLONE | ({"steps": 10, "width": 16} if small else {}), "walk": CLONE_WALK}
    kind = getattr(recipes, arm.recipe)
    less = {"steps": 8, "model_steps": 4, "batch": 8, "width": 32, "candidates": 4} if small else {}
    return plain(asdict(kind(**{**arm.fields, **known(kind, less)})))


def maze_of(settings: Mapping[str, Any]) -> Maze2D:
    """The maze, changed."""
    told = dict(settings["changes"])
    if (obstacle := told.pop("obstacle", None)) is not None:
        points = tuple((float(x), float(y)) for x, y in obstacle["points"])
        told["obstacle"] = Obstacle(points, obstacle["radius"], obstacle["period"])
    if (dynamics := told.pop("dynamics", None)) is not None:
        told["dynamics"] = Dynamics(**dynamics)
    return Maze2D(settings["maze"], **told)


def planned(job: Job, store: Store) -> dict[str, Any]:
    """One arm in one maze."""
    settings = job.settings
    _, logs = logged(settings, store)
    trained, training = prepared(settings, logs, store)
    maze = maze_of(settings)
    agent = ARMS[settings["arm"]].made(trained, maze)
    scores = evaluate(agent, maze, settings["episodes"], first_seed=settings["first_seed"])
    broken = None if scores.violations is None or scores.acted is None else shares(scores)
    usual = Maze2D(settings["maze"]).score(scores.latched)  # on the scale of the maze as it was, whatever was changed
    text = "" if broken is None else f", broken in {np.mean([share > 0 for share in broken]):.0%} of episodes"
    return {
        "said": f"{settings['arm']} in {settings['change']}: {said(scores)}, {scores.success.mean():.0%} solved{text}",
        "training": training,
        "outcome": outcome(scores),
        "score": np.round(usual, 3).tolist(),
        "solved": scores.success.astype(int).tolist(),
        "violations": broken,
    }


def shares(scores: Scores) -> list[float]:
    """Of the steps for which it acted, episode by episode, those after which a rule was broken."""
    assert scores.violations is not None
    assert scores.acted is not None
    return np.round(scores.violations / np.maximum(scores.acted, 1), 4).tolist()


def prepared(settings: Mapping[str, Any], logs: Trajectories, store: Store) -> tuple[Any, dict[str, Any] | None]:
    """What was trained, once for all arms and changes that share it, and how long that took."""
    if settings["recipe"] is None:
        return None, None
    if settings["recipe"] == "cloned":
        begun = time.perf_counter()
        policy = cloned({"seed": settings["seed"], **settings["fields"]}, logs)
        steps = settings["fields"]["clone"]["steps"]
        return replace(policy, name="cloned"), {"wall": time.perf_counter() - begun, "steps": steps}
    shared = {name: settings[name] for name in ("scale", "maze", "demonstrations", "recipe", "fields", "seed")}
    owner = Job(f"trained-{settings['recipe']}-{settings['seed']}", shared | {"kind": "trained"})
    run = store.work(owner) / "run"
    with store.held(owner.name, wait=True):
        lent(run, shared)
        if weights_step(run / "weights.safetensors") != settings["fields"]["steps"]:
            recipe(settings).train(
                logs, run=run, seed=settings["seed"], progress=False, task=Maze2D(settings["maze"]).name
            )
    return recipes.load(run), clocked(run)


def lent(run: Path, shared: Mapping[str, Any]) -> None:
    """The same training, where the benchmark of alignment has made it already: a copy of it."""
    if run.exists():
        return
    for there in sorted((ROOT / "runs" / "bench-align").glob(f"began-{shared['seed']}-*/run")):
        try:
            told = read_json(there / "recipe.json")
        except InputError:
            continue
        since = plain(asdict(getattr(recipes, shared["recipe"])()))  # fields that a run is older than stand as they are
        same = told["recipe"], since | told["fields"], told["seed"], told["task"], told["data"]["steps"]
        wanted = (
            shared["recipe"],
            shared["fields"],
            shared["seed"],
            f"maze2d-{shared['maze']}",
            shared["demonstrations"],
        )
        if same == wanted and (there / "weights.safetensors").is_file():
            shutil.copytree(there, run)
            return


def clocked(run: Path) -> dict[str, Any]:
    """How long a run was trained by the clock, as its metrics say, and up to which step they go."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1:]
    return {"wall": float(last[0]["seconds"]), "steps": int(last[0]["step"])} if last else {"wall": None, "steps": 0}


def fuzz(job: Job, store: Store) -> dict[str, Any]:
    """Random zones and random trajectories: how many of those that cross are out after projection, exactly and along
    all of the way; the others are left as they were, for a round of convex parts found no way out.
    """
    rng, same = np.random.default_rng(0), Normaliser(torch.zeros(4), torch.ones(4)).double()
    count = {"zones": 0, "crossed": 0, "out": 0, "left": 0, "touched": 0}
    worst, moved = 0.0, []
    known = torch.zeros(16, 4, dtype=torch.bool)
    known[0] = True
    for _ in range(job.settings["zones"]):
        held, x = random_zone(rng), random_way(rng)
        before = float(held.missed(x).max())
        found = held.project(x, same, known, x)
        after = float(held.missed(found).max())
        count["zones"] += 1
        count["crossed"] += before > 1e-4
        count["out"] += before > 1e-4 and after <= 1e-4
        count["left"] += before > 1e-4 and after > 1e-4
        count["touched"] += before == 0 and not torch.equal(found, x)
        if before > 1e-4 and after <= 1e-4:
            worst = max(worst, after)
            moved.append(float((found - x).square().sum().sqrt()))
    return {
        "said": f"{count['out']} of {count['crossed']} out; {count['touched']} touched that were out before",
        **count,
        "worst": worst,
        "moved": float(np.mean(moved)),
    }


def random_zone(rng: np.random.Generator) -> Feasible:
    """One box or disc, or two."""
    zones: list[Constraint] = []
    for _ in range(rng.integers(1, 3)):
        x, y = rng.uniform(-1.5, 1.5, 2)
        if rng.random() < 0.5:
            w, h = rng.uniform(0.1, 0.8, 2)
            zones.append(OutsideBox(x - w, y - h, x + w, y + h))
        else:
            zones.append(OutsideDisc(float(x), float(y), float(rng.uniform(0.1, 0.8))))
    return Feasible(tuple(zones))


def random_way(rng: np.random.Generator) -> torch.Tensor:
    """A smooth way of 16 points; it may begin in a zone."""
    turns = np.cumsum(rng.normal(scale=0.35, size=16)) + rng.uniform(0, 2 * np.pi)
    steps = rng.uniform(0.1, 0.4) * np.stack([np.cos(turns), np.sin(turns)], 1)
    points = rng.uniform(-2, 2, 2) + np.cumsum(steps, axis=0)
    return torch.from_numpy(np.concatenate([points, steps], 1))[None]
