"""How fast it plans, and how fast the mazes step, each beside its peer in the same minutes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from kedge.envs import Maze2D
from kedge.plan import Agent
from kedge.recipes import DV, FV
from kedge.recipes.training import Training
from measure.jobs import Job, Store

SITUATIONS = 4
"""Observations that are planned for at once: few, for DV takes seconds for each."""
COPIES = 64
MAZE_STEPS = 400
LATENCIES = 40


def plans(job: Job, store: Store) -> dict[str, Any]:
    """Candidate plans a second, and decisions a second, which are a whole set of candidates with its judgement.

    FV as it is by default, and with as many candidates as DV has; DV's networks, path, walk and candidates to the
    letter. Weights are untrained: they do not matter to the time. The arms take turns.
    """
    maze = Maze2D("large")
    fv, dv = agent_of(FV(), maze), agent_of(DV(), maze)
    arms = {"FV": fv, "FV, 50 candidates": replace(fv, candidates=50), "DV": dv}
    observations = np.asarray(maze.simulator(SITUATIONS).reset(range(SITUATIONS)))
    times = in_turns(
        {name: lambda agent=agent: agent.plan(observations) for name, agent in arms.items()}, job.settings["rounds"]
    )
    rows = []
    for name, agent in arms.items():
        ratios = [
            dv / own * agent.candidates / arms["DV"].candidates
            for own, dv in zip(times[name], times["DV"], strict=True)
        ]
        seconds = statistics.median(times[name])
        rows.append({
            "arm": name,
            "candidates": agent.candidates,
            "decisions_per_second": SITUATIONS / seconds,
            "plans_per_second": SITUATIONS * agent.candidates / seconds,
            "ratio_plans": statistics.median(ratios),
            "ratio_decisions": statistics.median(dv / own for own, dv in zip(times[name], times["DV"], strict=True)),
            "ratios": ratios,
        })  # fmt: skip
    said = f"{rows[0]['plans_per_second']:.0f} plans a second, {rows[0]['ratio_plans']:.1f} times DV's"
    return {"said": said, "situations": SITUATIONS, "rounds": job.settings["rounds"], "rows": rows}


def mazes(job: Job, store: Store) -> dict[str, Any]:
    """Steps a second of the vectorised maze, and of as many single ones in gymnasium's vector environment."""
    maze = Maze2D("large")
    many = maze.simulator(COPIES)
    single = gymnasium.vector.SyncVectorEnv([lambda: Maze2D("large") for _ in range(COPIES)])
    many.reset(range(COPIES))
    single.reset(seed=list(range(COPIES)))
    actions = np.random.default_rng(0).uniform(-1, 1, (MAZE_STEPS, COPIES, 2)).astype(np.float32)

    def steps(step: Callable[[np.ndarray], Any]) -> Callable[[], None]:
        def run() -> None:
            for action in actions:
                step(action)

        return run

    times = in_turns({"kedge": steps(many.step), "gymnasium": steps(single.step)}, job.settings["rounds"])
    single.close()
    ratios = [theirs / ours for ours, theirs in zip(times["kedge"], times["gymnasium"], strict=True)]
    rate = {name: COPIES * MAZE_STEPS / statistics.median(found) for name, found in times.items()}
    said = f"{rate['kedge']:.0f} steps a second, {statistics.median(ratios):.1f} times SyncVectorEnv's"
    return {
        "said": said, "copies": COPIES, "steps_per_second": rate, "ratio": statistics.median(ratios), "ratios": ratios
    }  # fmt: skip


def latency(job: Job, store: Store) -> dict[str, Any]:
    """Seconds for one plan of one environment, 64 candidates, no compilation."""
    maze = Maze2D("large")
    agent = agent_of(FV(), maze)
    observations = np.asarray(maze.simulator(1).reset([0]))
    times = in_turns({"FV": lambda: agent.plan(observations, candidates=64)}, LATENCIES)["FV"]
    low, median, high = (float(np.quantile(times, q)) for q in (0.05, 0.5, 0.95))
    return {"said": f"{median * 1000:.1f} ms", "candidates": 64, "median": median, "p5": low, "p95": high}


def agent_of(recipe: Any, maze: Maze2D) -> Agent:
    """Its agent, untrained."""
    return Training(recipe, maze.demonstrations(steps=20_000, seed=0), None).agent()


def in_turns(arms: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each arm in each round; all run once before, to warm up."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for count in range(rounds + 1):
        for name, run in arms.items():
            begun = time.perf_counter()
            run()
            if count:
                times[name].append(time.perf_counter() - begun)
    return times
