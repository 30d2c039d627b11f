"""Steers one trained planner by each way, and looks at its plans, at what comes of them, and at the clock."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np

from kedge import guide, recipes, steer
from kedge.envs import Layout, Maze2D
from kedge.envs.layout import MOVES, Cell
from kedge.plan import Agent
from kedge.run.evaluate import REPORTING, evaluate
from kedge.steer import (
    Along,
    Box,
    ComeTo,
    Objective,
    OutputPerturbation,
    PostHocRanking,
    StayOff,
    StochasticSampling,
    Way,
)
from measure.jobs import Job, Store
from measure.planning import Scale, headline, recipe
from measure.trained import outcome

SAME = ("maze", "seed", "demonstrations", "fields")
"""What says which planner it is."""
CASES, CANDIDATES, EPISODES, ROUNDS, DRAWN = 60, 16, 30, 15, 20_000_003
MOVED, PACE, OFF = 8, 0.44, 0.25
"""Cells of a sketch after its first; metres from one point of a plan to the next, as the logs have it; by how much the
hand that draws misses the middle of a cell, so that about every other sketch cuts a wall."""
PUSH = 0.5
"""Metres along the sketch by which a correction pushes."""
ZONE = (4.75, 6.75, 5.25, 7.25)
"""The middle of a corridor that most shortest ways to the goal lead through; it can be passed on either side."""
WAYS: dict[str, Way] = {
    **{name: way() for name, way in steer.WAYS.items()},
    "stochastic-step": StochasticSampling(by="step"),
    "stochastic-2": StochasticSampling(times=2),
    "stochastic-8": StochasticSampling(times=8),
}
"""Each with its defaults."""
LIVED: dict[str, Way] = {
    **{name: WAYS[name] for name in ("random", "rank", "guided", "stochastic")},
    "rank-judged": PostHocRanking(weigh=1.0),
}
"""Those that can do something about a zone. Ranking by xi alone forgets the goal."""


def jobs(scale: Scale) -> list[Job]:
    """Plans to sketches and points, an agent that goes round a zone, and times."""
    owner = next(job for job in headline(scale) if job.name == "headline-fv-large-0")
    plain = {name: owner.settings[name] for name in SAME}
    cases = 3 if scale.small else CASES
    seen = plain | {"kind": "plans", "cases": cases, "candidates": CANDIDATES}
    lived = plain | {"kind": "acted", "episodes": 2 if scale.small else EPISODES, "candidates": CANDIDATES}
    return [
        *(Job(f"plans-{to}", seen | {"to": to}) for to in ("sketch", "point")),
        Job("acted-zone", lived),
        Job(
            "times",
            plain | {"kind": "times", "rounds": 2 if scale.small else ROUNDS, "candidates": CANDIDATES},
            alone=True,
        ),
    ]


def planner(settings: dict[str, Any], store: Store) -> tuple[Maze2D, Agent]:
    """The maze and the agent, trained the first time that it is wanted."""
    maze = Maze2D(settings["maze"])
    owner = Job("planner", {name: settings[name] for name in SAME} | {"kind": "planner"})
    run = store.work(owner) / "run"
    with store.held(owner.name, wait=True):
        if not (run / "weights.safetensors").is_file():
            logs = maze.demonstrations(steps=settings["demonstrations"], seed=0)
            recipe(settings).train(logs, run=run, seed=settings["seed"], progress=False, task=maze.name)
    return maze, recipes.load(run)


def plans(job: Job, store: Store) -> dict[str, Any]:
    """Of each case and way: xi of the candidates and of the chosen one, and whether they cross walls. Plans end
    wherever they like.
    """
    maze, agent = planner(job.settings, store)
    agent = replace(agent, goal=None)
    rng = np.random.default_rng(DRAWN)
    columns = ("xi", "chosen", "crossing", "chosen_crossing")
    found: dict[str, dict[str, list[float]]] = {name: {column: [] for column in columns} for name in WAYS}
    drawn = []
    for case in range(job.settings["cases"]):
        line = sketch(maze.layout, rng)
        drawn.append(np.round(line, 3).tolist())
        to: Objective = Along.of(line, pace=PACE) if job.settings["to"] == "sketch" else ComeTo(tuple(line[-1]))
        state = np.array([*line[0], 0.0, 0.0])
        for name, way in WAYS.items():
            if isinstance(way, OutputPerturbation):
                way = replace(way, push=pushed(line))
            plan = agent.steered(to, way).plan(state, candidates=job.settings["candidates"], seed=case)
            crosses = crossing(maze.layout, plan.states[0])
            assert plan.xi is not None
            best = int(plan.best[0])
            row = plan.xi.mean(), plan.xi[0, best], crosses.mean(), crosses[best]
            for column, value in zip(columns, row, strict=True):
                found[name][column].append(round(float(value), 4))
    said = ", ".join(f"{name} {np.mean(row['chosen']):.2f} m" for name, row in found.items())
    return {"said": f"{job.settings['to']}: {said}", "drawn": drawn, "ways": found}


def sketch(layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """A way through cells that comes by none twice, as a hand would draw it; it begins in the middle of its cell."""
    while True:
        way: list[Cell] = [layout.free[rng.integers(len(layout.free))]]
        while len(way) <= MOVED:
            r, c = way[-1]
            open_ = [(r + i, c + j) for i, j in MOVES if not layout.walls[r + i, c + j] and (r + i, c + j) not in way]
            if not open_:
                break
            way.append(open_[rng.integers(len(open_))])
        if len(way) > MOVED:
            off = rng.normal(scale=OFF, size=(len(way), 2)).clip(-0.6, 0.6)
            off[0] = 0.0
            return np.array(way, dtype=float) + off


def pushed(line: np.ndarray) -> tuple[float, ...]:
    """Along the sketch."""
    along = line[1] - line[0]
    return tuple((PUSH * along / np.linalg.norm(along)).tolist())


def crossing(layout: Layout, states: np.ndarray) -> np.ndarray:
    """Whether each plan meets a wall anywhere."""
    points = states[..., :2].astype(float)
    return np.asarray(layout.crosses(points[:, :-1], points[:, 1:]).any(1))


def acted(job: Job, store: Store) -> dict[str, Any]:
    """Episodes to the goal, round the zone: the score, the share of the time in the zone, plans that cross walls."""
    maze, agent = planner(job.settings, store)
    agent = replace(agent, candidates=job.settings["candidates"])
    off = StayOff(Box(*ZONE))
    agents = {name: agent.steered(off, way) for name, way in LIVED.items()}
    agents["keep-out"] = agent.with_guide(guide.keep_out(ZONE))
    found = {}
    for name, one in agents.items():
        scores = evaluate(one, maze, episodes=job.settings["episodes"], first_seed=REPORTING)
        assert scores.positions is not None
        found[name] = {
            "outcome": outcome(scores),
            "zone": [in_zone(p, int(s)) for p, s in zip(scores.positions, scores.solved_at, strict=True)],
        }
    said = ", ".join(f"{name} {100 * np.mean(row['zone']):.1f} %" for name, row in found.items())
    return {"said": f"time in the zone: {said}", "ways": found}


def in_zone(path: np.ndarray, solved: int) -> float:
    """The share of the time until the goal."""
    moments = path[: solved + 1 if solved >= 0 else len(path)]
    moments = moments[np.isfinite(moments).all(1)]
    x0, y0, x1, y1 = ZONE
    return round(float(((moments > (x0, y0)) & (moments < (x1, y1))).all(1).mean()), 4)


def times(job: Job, store: Store) -> dict[str, Any]:
    """Milliseconds of the processor for a plan, the ways by turns."""
    maze, agent = planner(job.settings, store)
    line = sketch(maze.layout, np.random.default_rng(DRAWN))
    state, to = np.array([*line[0], 0.0, 0.0]), Along.of(line, pace=PACE)
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(job.settings["rounds"] + 1):
        for name, way in WAYS.items():
            begun = time.process_time()
            agent.steered(to, way).plan(state, candidates=job.settings["candidates"], seed=turn)
            if turn:  # the first is to warm up
                found[name].append(round(1e3 * (time.process_time() - begun), 2))
    said = ", ".join(f"{name} {statistics.median(row):.0f} ms" for name, row in found.items())
    return {"said": said, "ways": {name: {"milliseconds": row} for name, row in found.items()}}
