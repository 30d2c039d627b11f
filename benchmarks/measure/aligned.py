"""Moves trained planners toward rewards, and looks at what they do before and after."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from kedge import recipes
from kedge.align import Reward, from_file
from kedge.envs import Maze2D
from kedge.plan import Agent
from kedge.plan.worth import Outside, Sooner, looked_at
from kedge.recipes import AWM, DDPO, VMPO
from kedge.recipes.align import Align
from kedge.run.evaluate import REPORTING, evaluate
from kedge.run.scores import Scores
from measure.black_box import NEAR, WALLS
from measure.jobs import Job, Store
from measure.planning import Scale, headline, recipe
from measure.trained import logged, outcome, said

ZONE = (2.6, 2.6, 3.4, 3.4)
"""The middle of a corridor of the large maze; there is a way round for every start."""
FAST = 4.0
"""What is too fast, in metres a second."""
BLACK_BOX = Path(__file__).with_name("black_box.py")
STEP = 0.01
"""Seconds from one position to the next."""
METHODS: dict[str, Align] = {"vmpo": VMPO(), "awm": AWM(), "ddpo": DDPO()}
REWARDS = {"speed": ("vmpo", "awm"), "zone": tuple(METHODS), "clear": ("vmpo", "awm"), "calm": ("vmpo",)}
"""With which methods each is asked for."""
PLACES, EACH, PROBED = 100, 16, 10_000_019


def jobs(scale: Scale) -> list[Job]:
    """Each method, reward and seed, on the headline's planners in the large maze."""
    made = []
    for owner in (job for job in headline(scale) if job.name.startswith("headline-fv-large-")):
        seed = owner.settings["seed"]
        for reward, names in REWARDS.items():
            for name in names:
                align = METHODS[name]
                align = replace(align, steps=2, batch=8, each=4, evaluations=3) if scale.small else align
                settings = owner.settings | {"kind": "aligned", "reward": reward, "method": name}
                settings |= {"align": asdict(align), "episodes": min(100, scale.episodes)}
                made.append(Job(f"{reward}-{name}-{seed}", settings))
    order = list(METHODS)
    return sorted(made, key=lambda job: (order.index(job.settings["method"]), job.settings["seed"]))


def aligned(job: Job, store: Store) -> dict[str, Any]:
    """One planner before and after."""
    settings = job.settings
    maze, logs = logged(settings, store)
    agent, before = began(settings, store, maze)
    worth = reward_of(settings["reward"], agent)
    method = {"vmpo": VMPO, "ddpo": DDPO, "awm": AWM}[settings["method"]](**settings["align"])
    wall, cpu = time.perf_counter(), time.process_time()
    after = method.train(agent, logs, worth, store.work(job) / "run", seed=settings["seed"], progress=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    scores = evaluate(after, maze, episodes=settings["episodes"], first_seed=REPORTING)
    places = np.random.default_rng(PROBED).integers(0, len(logs), PLACES)
    states = logs.observations[places].astype(float)
    return {
        "said": f"{settings['reward']} by {settings['method']}: {said(scores)}; {cpu:.0f} s",
        "seconds": {"wall": wall, "cpu": cpu},
        "before": {"plans": plans(agent, worth, states), **before},
        "after": {"plans": plans(after, worth, states), "outcome": outcome(scores), "costs": costs(scores)},
    }


def began(settings: dict[str, Any], store: Store, maze: Maze2D) -> tuple[Agent, dict[str, Any]]:
    """The planner to begin with, and what it does: trained and evaluated once for all rewards."""
    plain = {name: value for name, value in settings.items() if name not in ("reward", "method", "align")}
    owner = Job(f"began-{settings['seed']}", plain | {"kind": "began"})
    with store.held(owner.name, wait=True):
        run = store.work(owner) / "run"
        logs = maze.demonstrations(steps=settings["demonstrations"], seed=0)
        recipe(settings).train(logs, run=run, seed=settings["seed"], progress=False, task=maze.name)
        agent, kept = recipes.load(run), store.work(owner) / "scores"
        if not (kept / "evaluation.json").is_file():
            evaluate(agent, maze, episodes=settings["episodes"], first_seed=REPORTING, out=kept)
        scores = Scores.load(kept)
    return agent, {"outcome": outcome(scores), "costs": costs(scores)}


def reward_of(name: str, agent: Agent) -> Reward:
    """By its name."""
    if name == "zone":
        return Outside.of(ZONE)
    if name in ("clear", "calm"):
        return from_file(f"{BLACK_BOX}:{name}")
    assert agent.goal is not None
    return Sooner(tuple(float(along) for along in agent.goal))


def plans(agent: Agent, worth: Reward, states: np.ndarray) -> dict[str, list[float]]:
    """Of plans from these states, place by place."""
    return {name: np.round(values, 5).tolist() for name, values in looked_at(agent, worth, states, EACH).items()}


def costs(scores: Scores) -> dict[str, list[float]]:
    """Of what was done, episode by episode until the goal: the share of the time in the zone, too near to a wall, and
    too fast.
    """
    assert scores.positions is not None
    x0, y0, x1, y1 = ZONE
    found: dict[str, list[float]] = {"zone": [], "near": [], "fast": []}
    for path, solved in zip(scores.positions, scores.solved_at, strict=True):
        moments = path[: int(solved) + 1 if solved >= 0 else len(path)]
        moments = moments[np.isfinite(moments).all(1)]
        inside = ((moments > (x0, y0)) & (moments < (x1, y1))).all(1)
        speed = np.linalg.norm(np.diff(moments, axis=0), axis=1) / STEP if len(moments) > 1 else np.zeros(1)
        found["zone"].append(round(float(inside.mean()), 4))
        found["near"].append(round(float(WALLS.blocked(moments, NEAR).mean()), 4))
        found["fast"].append(round(float((speed > FAST).mean()), 4))
    return found
