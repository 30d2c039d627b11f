"""Solvers on grids: how far from the flow's own end a walk of few evaluations stops, on mixtures whose denoiser is
known and on a trained planner, and what that is worth in a maze.

A new solver, and a new grid, join by one line each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import kedge
from kedge.exact import GaussianMixture
from kedge.paths import Trig
from kedge.plan import Agent
from kedge.run.evaluate import REPORTING, evaluate
from kedge.walk.grids import Cosine, LogSNR, Rho
from kedge.walk.solvers import DDIM, DPMSolverPP, Euler, Heun
from measure.jobs import Job, Store
from measure.planners import ARMS as PLANNERS
from measure.planners import prepared, settings
from measure.planning import Scale
from measure.trained import logged, outcome

BUDGETS = (3, 4, 5, 6, 8, 10, 15, 20, 30, 50)
"""Network evaluations."""
SCORED = (3, 5, 8, 15)
"""... for which the best pair acts as well."""
SAMPLES, STARTS, EPISODES = 512, 64, 100
FINE = 500

GridOf = Callable[[int, float, float], Any]

SOLVERS: dict[str, Any] = {
    "Euler": Euler(),
    "Heun": Heun(),
    "DDIM": DDIM(),
    "DPM-Solver++ 2M": DPMSolverPP(2),
    "DPM-Solver++ 3M": DPMSolverPP(3),
    "DPM-Solver++ 2S": DPMSolverPP(2, multistep=False),
    "DPM-Solver++ 3S": DPMSolverPP(3, multistep=False),
}
GRIDS: dict[str, GridOf] = {
    "log-SNR": LogSNR,
    "rho 7": lambda n, low, high: Rho(n, 7.0, low, high),
    "rho 3": lambda n, low, high: Rho(n, 3.0, low, high),
    "angle": Cosine,
}


@dataclass(frozen=True)
class Problem:
    """Where walks are compared.

    walk:  `walk(solver, grid) -> ends`, always from the same noise
    low:   the last noise scale of a grid before clean
    high:  where it begins
    scale: of the data, which errors are told in
    """

    walk: Callable[[Any, Any], Tensor]
    low: float
    high: float
    scale: float


def jobs(scale: Scale) -> list[Job]:
    """The three problems; then the scores of the pairs that come nearest on the last one."""
    shared = {"scale": scale.name, "solvers": sorted(SOLVERS), "grids": sorted(GRIDS)}
    shared |= {"budgets": list(BUDGETS[:3] if scale.small else BUDGETS)}
    fv = settings(scale, PLANNERS["fv"], "fv", 1)
    trained = {"maze": "large", "demonstrations": scale.demonstrations, **fv, "starts": min(STARTS, scale.starts)}
    found = [Job(name, {"kind": "errors", "problem": name, **shared}) for name in ("plane", "low-rank")]
    found.append(Job("planner", {"kind": "errors", "problem": "planner", **shared, **trained}))
    acts = {**shared, **trained, "episodes": min(EPISODES, scale.episodes), "first_seed": REPORTING}
    scored = [Job(f"score-{n}", {"kind": "scores", "budget": n, **acts}, after="planner") for n in SCORED]
    return [*found, *scored]


def steps_for(solver: Any, budget: int) -> int | None:
    """How many steps take just so many evaluations; None where no number does."""
    return next((n for n in range(1, budget + 1) if solver.evaluations(n) == budget), None)


def mixture_of(name: str) -> GaussianMixture:
    """Eight narrow modes on a ring; or four in 64 dimensions, each wide in four directions only."""
    generator = torch.Generator().manual_seed(0)
    if name == "plane":
        angle = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
        return GaussianMixture([1.0] * 8, torch.stack([angle.cos(), angle.sin()], 1), [0.01] * 8)
    means = torch.randn(4, 64, generator=generator, dtype=torch.float64)
    factors = torch.randn(4, 64, 4, generator=generator, dtype=torch.float64) / 2
    return GaussianMixture([1.0] * 4, means, factors @ factors.mT + 1e-3 * torch.eye(64, dtype=torch.float64))


def of_mixture(name: str) -> Problem:
    """From the path's own marginal at a noise scale of 80."""
    mixture, path = mixture_of(name), Trig(sigma_data=1.0)
    high = 80.0
    x, denoiser = mixture.marginal(path, path.time_at(high)).sample(SAMPLES, seeds=0), mixture.denoiser(path)

    def walk(solver: Any, grid: Any) -> Tensor:
        return kedge.sample(denoiser, x, grid=grid, solver=solver, seeds=0)

    return Problem(walk, 0.01, high, float(mixture.covariance.diagonal().mean().sqrt()))


def of_planner(agent: Agent, starts: np.ndarray) -> Problem:
    """Plans from many starts, one each, in units of what the data vary by."""
    planner: Any = agent.proposer
    scale = planner.normaliser.scale[: planner.dim].double()

    def walk(solver: Any, grid: Any) -> Tensor:
        walked = replace(planner, solver=solver, grid=grid, nearby=None)
        plans = replace(agent, proposer=walked).plan(starts, candidates=1).states[:, 0]
        return torch.as_tensor(plans).double() / scale

    return Problem(walk, 0.02, float(planner.grid.scale_max), 1.0)


def errors(job: Job, store: Store) -> dict[str, Any]:
    """Every pair at every budget: the root mean square distance to the end of a walk of 500 steps."""
    told = job.settings
    if told["problem"] == "planner":
        maze, logs = logged(told, store)
        agent, _ = prepared(told, logs, store)
        problem = of_planner(agent, maze.simulator(told["starts"]).reset(range(told["starts"])))
    else:
        problem = of_mixture(told["problem"])
    exact = problem.walk(DPMSolverPP(3, multistep=False), Rho(FINE, 3.0, problem.low / 10, problem.high))
    rows = []
    for solver_name, solver in SOLVERS.items():
        for grid_name, make in GRIDS.items():
            rows.append({"solver": solver_name, "grid": grid_name, **along(problem, solver, make, told, exact)})
    found = best(rows, 5)
    return {"said": f"at 5 evaluations {found['solver']} on {found['grid']}: {found['error']:.3g}", "rows": rows}


def along(problem: Problem, solver: Any, make: GridOf, told: Mapping[str, Any], exact: Tensor) -> dict[str, list[Any]]:
    """One pair at each budget that its steps can spend."""
    budgets, found = [], []
    for budget in told["budgets"]:
        steps = steps_for(solver, budget)
        if steps is None or steps < 2:
            continue
        ends = problem.walk(solver, make(steps, problem.low, problem.high))
        budgets.append(budget)
        found.append(float((ends - exact).square().mean().sqrt()) / problem.scale)
    return {"budgets": budgets, "errors": found}


def best(rows: Sequence[Mapping[str, Any]], budget: int) -> dict[str, Any]:
    """The pair that comes nearest with so many evaluations."""
    there = [(row["errors"][row["budgets"].index(budget)], row) for row in rows if budget in row["budgets"]]
    error, row = min(there, key=lambda pair: pair[0])
    return {"solver": row["solver"], "grid": row["grid"], "error": error}


def scores(job: Job, store: Store) -> dict[str, Any]:
    """What the nearest pair is worth in the maze, beside the recipe's own solver and grid with as many evaluations."""
    told = job.settings
    maze, logs = logged(told, store)
    agent, _ = prepared(told, logs, store)
    measured, budget = store.read("planner"), told["budget"]
    assert measured is not None
    pair, planner = best(measured["rows"], budget), agent.proposer
    solver = SOLVERS[pair["solver"]]
    grid = GRIDS[pair["grid"]](steps_for(solver, budget) or budget, 0.02, planner.grid.scale_max)
    walks = {"nearest": (solver, grid), "own": (planner.solver, replace(planner.grid, n=budget))}
    rows = {}
    for name, (walked, on) in walks.items():
        acts = replace(agent, proposer=replace(planner, solver=walked, grid=on))
        rows[name] = outcome(evaluate(acts, maze, told["episodes"], first_seed=told["first_seed"]))
    text = ", ".join(f"{name} {np.mean(row['latched']):.1f}" for name, row in rows.items())
    return {"said": f"{pair['solver']} on {pair['grid']}: {text}", "pair": pair, "rows": rows}
