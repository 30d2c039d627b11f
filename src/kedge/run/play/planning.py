"""From a scene to a plan: the agent as the page has it, and how its plans are sent."""

from __future__ import annotations

import functools
import json
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from kedge.elementary import Level
from kedge.envs.layout import BALL
from kedge.guide import Guide, keep_out
from kedge.plan import Agent, Barred, Nearby, Plan, Planner
from kedge.plan.proposer import candidate_seeds
from kedge.run.play.scene import Point, Scene, Settings, Stepping
from kedge.steer import (
    WAYS,
    Along,
    ComeTo,
    Disc,
    GuidedDiffusion,
    Objective,
    OutputPerturbation,
    PostHocRanking,
    StayOff,
    StochasticSampling,
    Way,
)
from kedge.walk.solvers import NAMED, Heun
from kedge.walk.state import Hook, Solver, State

SOLVERS: dict[Stepping, Solver] = {**NAMED, "heun": Heun()}

CLEAR = 0.05
"""What guides leave between a plan and what is drawn, beyond the ball's radius where it is a wall."""

AWAY = 0.6
"""The radius of what is kept away from around a point, in metres."""
PACE = 0.45
"""From one point of a plan to the next, in metres, along a sketched way: what the logs of the mazes typically have."""
PUSH = 0.3
"""How far a correction by pushing pushes."""
TIMES = 2
"""How often stochastic sampling walks each level: half of what it does by itself, so that it answers at once."""
TOGETHER, MOST_PULL = 2.0, 2.0
"""A hand is to be obeyed: points may be pulled twice as far as `kedge.steer` has it, and take more of a plan along."""
FAR = 0.2
"""What lies outside the logs further ahead counts at least so much, as a share of what lies outside nearby, as soon as
anything is drawn: plans that are pulled leave the logs more often than those that the run's own judge was made for."""
MILLI = 1000.0
"""Positions are sent as whole thousandths."""


class SupersededError(Exception):
    """The scene has changed: what was being planned is no longer wanted."""


@dataclass(frozen=True, eq=False)
class Unless(Hook):
    """Gives a walk up, before the network is asked again, once `gone()`."""

    gone: Callable[[], bool]

    def before(self, state: State, s: Level) -> State:
        """Looks, at every step."""
        if self.gone():
            raise SupersededError
        return state


@dataclass(frozen=True)
class Job:
    """A plan to be made.

    n:      the newest of the page's commands that it knows of
    round:  how often this scene was planned for before: each time other noise
    draft:  whether it is the first answer, with few candidates
    """

    scene: Scene
    settings: Settings
    ball: Float[np.ndarray, " s"]
    kept: Float[np.ndarray, "1 h s"] | None
    n: int
    round: int
    count: int
    draft: bool


@dataclass(frozen=True)
class Made:
    """A plan, for what it was made, and how many milliseconds that took."""

    job: Job
    plan: Plan
    milliseconds: float


def make(agent: Agent, job: Job, gone: Callable[[], bool] = lambda: False) -> Made:
    """Plans. Raises `SupersededError` as soon as the job is gone."""
    begun = time.perf_counter()
    steered = steered_by(agent, job, gone)
    seeds = candidate_seeds(np.zeros(1, int), job.round, job.count)
    goal = np.array(job.scene.goal) if getattr(agent.proposer, "heeds", False) else None
    plan = steered.consider(job.ball[None], seeds, goal=goal, frames=not job.draft, kept=job.kept)
    return Made(job, plan, 1000 * (time.perf_counter() - begun))


def steered_by(agent: Agent, job: Job, gone: Callable[[], bool] = lambda: False) -> Agent:
    """The agent with the page's settings, and with all that was drawn: guides pull its plans out of walls and zones,
    and its judge takes a plan that crosses none.
    """
    scene, settings = job.scene, job.settings
    walls, zones = scene.boxes("wall"), scene.boxes("zone")
    barred = Barred(Barred.around(walls, BALL).boxes + Barred.around(zones).boxes)
    judge = agent.judge
    if scene.marks:
        judge = replace(judge, barred=barred if barred.boxes else None, far=max(judge.far, FAR))
    if (gaps := scene.boxes("gap")) and judge.support is not None:  # the logs end a ball's radius before a wall
        judge = replace(judge, support=judge.support.opened(Barred.around(gaps, BALL).boxes))
    proposer = agent.proposer
    if isinstance(proposer, Planner):
        proposer = replace(
            proposer,
            solver=SOLVERS[settings.solver],
            grid=replace(proposer.grid, n=settings.steps),  # pyright: ignore[reportArgumentType]
            nearby=_nearby(proposer.nearby, settings.steps),
            temperature=settings.temperature,
            guides=(*proposer.guides, *guides_of(scene, settings.strength, job.draft)),
            hooks=(Unless(gone), *proposer.hooks),
        )
    found = replace(agent, proposer=proposer, judge=judge)
    objective = objective_of(scene)
    return found if objective is None else found.steered(objective, way_of(found, scene, settings, job.ball))


def objective_of(scene: Scene) -> Objective | None:
    """What was sketched, as one objective: ways to take, points to come to on the way, discs to keep off."""
    ways = [Along.of(line, pace=PACE, onward=True) for line in scene.points("way")]
    points = [ComeTo(line[0], "any") for line in scene.points("come")]
    discs = [StayOff(Disc(*line[0], AWAY)) for line in scene.points("keep")]
    parts: list[Objective] = [*ways, *points, *discs]
    return None if not parts else functools.reduce(operator.add, parts)


def way_of(agent: Agent, scene: Scene, settings: Settings, ball: Float[np.ndarray, " s"]) -> Way:
    """The way of steering that is chosen; the strength is a share of the weight that it has by itself."""
    way = WAYS[settings.way]()
    if way.denoises and not isinstance(agent.proposer, Planner):
        return PostHocRanking()
    if isinstance(way, OutputPerturbation):
        return replace(way, push=_push(scene, ball))
    if isinstance(way, StochasticSampling):
        way = replace(way, times=TIMES)
    if isinstance(way, GuidedDiffusion):
        return replace(way, weight=way.weight * settings.strength, together=TOGETHER, most=MOST_PULL)
    return way


def _push(scene: Scene, ball: Float[np.ndarray, " s"]) -> Point:
    """Towards the first thing that was sketched to go to, away from the first one to keep away from."""
    wanted = [line[-1] for kind in ("come", "way") for line in scene.points(kind)]
    shunned = [line[0] for line in scene.points("keep")]
    there = np.array((wanted or shunned)[0]) - ball[:2]
    there = PUSH * there / max(float(np.linalg.norm(there)), PUSH)
    x, y = there if wanted else -there
    return float(x), float(y)


def guides_of(scene: Scene, strength: float, draft: bool = False) -> list[Guide]:
    """What pulls plans, for what is drawn. At strength 0 nothing does, and only the judge knows of walls and zones. In
    a draft points are pulled one by one, which spares the network's way back: half of a draft's time.
    """
    if strength == 0:
        return []
    walls = [keep_out(box, BALL + CLEAR, strength, alone=draft) for box in scene.boxes("wall")]
    return [*walls, *(keep_out(box, CLEAR, strength, alone=draft) for box in scene.boxes("zone"))]


def _nearby(nearby: Nearby | None, steps: int) -> Nearby | None:
    """Half of the steps, rounded up, as in training's own recipe."""
    grid: Any = None if nearby is None else nearby.grid
    return None if nearby is None else replace(nearby, grid=replace(grid, n=-(-steps // 2)))


def levels_of(agent: Agent, steps: int) -> list[float]:
    """The noise scales of a walk, noisiest first, the clean one last."""
    proposer = agent.proposer
    if not isinstance(proposer, Planner):
        return [0.0]
    path, grid = proposer.guided.path, replace(proposer.grid, n=steps)  # pyright: ignore[reportArgumentType]
    return [float(path.noise_scale(t)) for t in grid.levels(path).rows()]


def frame_of(made: Made) -> bytes:
    """A plan on the wire: the length of a header in four bytes (little end first), the header as JSON, then positions
    as 16-bit thousandths `[frames, candidates, points, 2]`: the estimates on the way, the noisiest first, and the plan.
    """
    job, plan = made.job, made.plan
    last = plan.states[0, :, :, :2]
    levels = {
        round(scale, 6): estimate[0, :, :, :2] for scale, estimate in plan.frames
    }  # of a level walked again, the last
    pictures = [*(_filled(estimate, last) for estimate in levels.values()), last]
    best = int(plan.best[0])
    header = {
        "type": "plan",
        "n": job.n,
        "round": job.round,
        "draft": job.draft,
        "ms": round(made.milliseconds, 1),
        "best": best,
        "kept": job.kept is not None,
        "values": _rounded(plan.values[0]),
        "feasible": _rounded(plan.feasible[0]),
        "crossings": plan.crossings[0].tolist(),
        "off": None if plan.xi is None else _rounded(plan.xi[0]),
        "scales": [*levels, 0.0],
        "shape": [len(pictures), *pictures[-1].shape],
        "stride": plan.stride,
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    whole = np.clip(np.rint(np.stack(pictures) * MILLI), -32768, 32767).astype("<i2")
    return len(text).to_bytes(4, "little") + text + whole.tobytes()


def _filled(estimate: Float[np.ndarray, "k h 2"], last: Float[np.ndarray, "n h 2"]) -> Float[np.ndarray, "n h 2"]:
    """Estimates of all candidates. Those near the last plan, which come first, and the kept one, which comes last, were
    not denoised from pure noise: they stand where they end.
    """
    whole = last.copy()
    first = len(last) - len(estimate) - (1 if len(last) > len(estimate) else 0)
    whole[first : first + len(estimate)] = estimate
    return whole


def _rounded(values: Sequence[float] | Float[np.ndarray, " n"]) -> list[float]:
    return [round(float(v), 4) for v in values]
