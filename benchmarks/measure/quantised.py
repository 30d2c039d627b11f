"""A trained planner in floats and in few bits, from the same starts."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

import kedge
from kedge.data import Segments, Trajectories
from kedge.denoise import Denoiser
from kedge.distill import Asked, in_integers, quantised
from kedge.fit import proposals
from kedge.noise import Noise
from kedge.plan import Agent, Planner
from kedge.recipes.quantise import Quantise, planner_of
from kedge.run.commands.runs import recipe_of, task_of
from kedge.run.evaluate import REPORTING, evaluate
from kedge.run.recorded import recorded_logs
from kedge.run.statistics import t_interval
from kedge.train import Tick

BITS, SAMPLES, PROBED, SEED = (8, 6, 4), 1024, 256, 0
ACTED = (8, 6)
"""Bits with which the planner still finds its way, so that its score says something."""
CANDIDATES = 16
"""Of each plan: a quarter of the default, so that a judge has less to choose from and a planner more to answer for."""


def measured(run: Path, episodes: int, rounds: int) -> dict[str, Any]:
    """A row for the floats, and for each number of bits and way to calibrate; then sizes and times."""
    torch.set_num_threads(1)
    agent, told = kedge.load(run), recipe_of(run)
    logs = recorded_logs(run, told)
    if isinstance(logs, str):
        raise SystemExit(f"{run}: {logs}")
    states = logs.observations[np.random.default_rng(SEED + 1).integers(0, len(logs), SAMPLES)].astype(np.float32)
    ways = {"walk": Quantise().asked(agent, states, SEED), "noised": noised(agent, logs)}
    whole = planner_of(agent).denoiser
    made = {(way, bits): quantised(whole, asked, bits) for bits in BITS for way, asked in ways.items()}
    probed = [Quantise(mean=mean, std=0.0).asked(agent, states[:PROBED], SEED + 2) for mean in (0, 0.25, 0.5, 0.75, 1)]
    maze, latched, agent = task_of(run, None), dict[Any, np.ndarray](), replace(agent, candidates=CANDIDATES)
    for key in (None, *(key for key in made if key[1] in ACTED)):
        one = agent if key is None else with_denoiser(agent, made[key])
        scores = evaluate(one, maze, episodes=episodes, first_seed=REPORTING, stop_when_solved=True)
        latched[key] = scores.latched_score
        print(key or "float", f"{scores.latched_score.mean():.1f}", flush=True)
    rows = [row(*key, latched.get(key), latched[None], off(whole, one, probed)) for key, one in made.items()]
    whole_score = {"score": latched[None].tolist(), "mean": float(latched[None].mean())}
    return {
        "recipe": told["recipe"], "maze": maze.name, "episodes": episodes, "first_seed": REPORTING, "seed": SEED,
        "samples": SAMPLES, "float": whole_score, "rows": rows,
        "bytes": sizes(whole, made["walk", 8]), "rounds": rounds, "candidates": agent.candidates,
        "milliseconds": times(agent, made["walk", 8], states, rounds),
    }  # fmt: skip


def with_denoiser(agent: Agent, denoiser: Denoiser) -> Agent:
    """The same agent, its plans by another network."""
    return replace(agent, proposer=replace(planner_of(agent), denoiser=denoiser))


def noised(agent: Agent, logs: Trajectories) -> Asked:
    """Logged windows that are noised outright, at times that are uniform over the path; their two ends are told, as
    they are to a planner that acts.
    """
    planner: Planner = planner_of(agent)
    rest = range(planner.dim // 2, planner.dim)
    given: dict[str, Any] = {"normaliser": planner.normaliser, "rest": rest, "fields": ["states"], "seed": SEED}
    windows = Segments(logs, planner.horizon, planner.stride, SAMPLES, **given)
    x = windows.next(Tick(0, SEED))["states"]
    draw = proposals.Uniform().draw(planner.denoiser.path, x, Noise.of(SEED, SAMPLES), 0)
    asked = Asked.noised(planner.denoiser.path, x, draw)
    asked.x[:, [0, -1]] = x[:, [0, -1]]
    return asked


def row(way: str, bits: int, score: np.ndarray | None, whole: np.ndarray, rms: float) -> dict[str, Any]:
    """What came of a planner: every episode's score, and the mean difference to the floats' with its interval."""
    found: dict[str, Any] = {"calibration": way, "bits": bits, "off": rms}
    if score is None:
        return found
    lost = score - whole
    said = {"score": score.tolist(), "mean": float(score.mean()), "difference": float(lost.mean())}
    return found | said | {"interval": list(t_interval(lost))}


def off(whole: Denoiser, denoiser: Denoiser, probed: list[Asked]) -> float:
    """The root mean square by which estimates differ, all steps of a walk alike, as a share of the data's scale."""

    def estimate(by: Denoiser, asked: Asked) -> Tensor:
        found = by.estimate(asked.x, asked.t, asked.cond).x
        assert isinstance(found, Tensor)
        return found

    with torch.no_grad():
        squares = [(estimate(denoiser, asked) - estimate(whole, asked)).square().mean() for asked in probed]
    return float(torch.stack(squares).mean().sqrt())


def sizes(whole: Denoiser, codes: Denoiser) -> dict[str, int]:
    """Of the network that makes plans, as a file."""
    return {name: len(save(dict(of.state_dict()))) for name, of in (("float", whole), ("int8", codes))}


def times(agent: Agent, codes: Denoiser, states: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the processor for a plan from one state, the ways by turns."""
    ways = {
        "float": agent,
        "simulated": with_denoiser(agent, codes),
        "integers": with_denoiser(agent, in_integers(codes)),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, one in ways.items():
            begun = time.process_time()
            one.plan(states[turn], seed=turn)
            if turn:  # the first is to warm up
                found[name].append(round(1e3 * (time.process_time() - begun), 2))
    print({name: statistics.median(row) for name, row in found.items()}, flush=True)
    return found
