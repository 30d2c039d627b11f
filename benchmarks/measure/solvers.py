"""Solvers on grids: how far from the flow's own end a walk of few evaluations stops, on mixtures whose denoiser is
known and on a trained planner, and what that is worth in a maze.

A new solver, and a new grid, join by one line each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kedge.distill import (
    Imitation,
    Klub,
    SolverSchedule,
    Subject,
    Teachings,
    distilled_steps,
    endpoint_error,
    search_solver,
    statistics_of,
    tangent,
    teacher_ends,
    variances_of,
)
from kedge.distill.imitate import by_hand, scales_of
from kedge.exact import GaussianMixture
from kedge.paths import Trig, VariancePreserving
from kedge.recipes.grid import FitGrid
from kedge.run.evaluate import REPORTING, evaluate
from kedge.walk.grids import Cosine, LogSNR, Rho
from kedge.walk.solvers import (
    DDIM,
    DEIS,
    AdamsBashforth,
    Decision,
    DPMSolver,
    DPMSolverPP,
    DPMSolverV3,
    Euler,
    EVODiff,
    Heun,
    RungeKutta,
    SASolver,
    UniPC,
)
from measure import order
from measure.jobs import Job, Store
from measure.planners import ARMS as PLANNERS
from measure.planners import prepared, settings
from measure.planning import Scale
from measure.trained import logged, outcome

BUDGETS = (3, 4, 5, 6, 8, 10, 15, 20, 30, 50)
"""Network evaluations."""
SCORED = (3, 5, 8, 15)
"""... for which the best pair acts as well."""
FEW = 8
"""Up to so many a grid is fitted."""
SAMPLES, STARTS, EPISODES = 256, 64, 100
TEACHER = 167
"""Steps of three evaluations each."""

SOLVERS: dict[str, Any] = {
    "Euler": Euler(),
    "Heun": Heun(),
    "Runge-Kutta 4": RungeKutta("rk4"),
    "DDIM": DDIM(),
    "DPM-Solver 2": DPMSolver(2),
    "DPM-Solver 3": DPMSolver(3),
    "DPM-Solver++ 2M": DPMSolverPP(2),
    "DPM-Solver++ 3M": DPMSolverPP(3),
    "DPM-Solver++ 2S": DPMSolverPP(2, multistep=False),
    "DPM-Solver++ 3S": DPMSolverPP(3, multistep=False),
    "UniPC 2": UniPC(2),
    "UniPC 3": UniPC(3),
    "DEIS 2": DEIS(2),
    "DEIS 3": DEIS(3),
    "DEIS 3, log-SNR": DEIS(3, "log_snr"),
    "Adams-Bashforth 2": AdamsBashforth(2),
    "Adams-Bashforth 3": AdamsBashforth(3),
    "SA-Solver, no noise": SASolver(3, 4, 0.0),
    "EVODiff": EVODiff(),
    "EVODiff, coefficients held": EVODiff(adapt=False),
}
CLAIMED: dict[str, int] = {
    "Euler": 1, "Heun": 2, "Runge-Kutta 4": 4, "DDIM": 1, "DPM-Solver 2": 2, "DPM-Solver 3": 3,
    "DPM-Solver++ 2M": 2, "DPM-Solver++ 3M": 2, "DPM-Solver++ 2S": 2, "DPM-Solver++ 3S": 3, "UniPC 2": 3, "UniPC 3": 3,
    "DEIS 2": 2, "DEIS 3": 2, "DEIS 3, log-SNR": 2, "Adams-Bashforth 2": 2, "Adams-Bashforth 3": 2,
    "SA-Solver, no noise": 3, "EVODiff": 1, "EVODiff, coefficients held": 2,
}  # fmt: skip
"""The order of a whole walk that begins as it does by default: multistep solvers begin at lower orders."""
FITTED_SOLVERS: dict[str, Callable[[Problem, Any], Any]] = {
    "DPM-Solver-v3": lambda problem, grid: DPMSolverV3(problem.statistics),
    "D-ODE on DDIM": lambda problem, grid: problem.distilled(grid),
}
GRIDS: dict[str, Callable[[Problem, int], Any]] = {
    "log-SNR": lambda problem, n: LogSNR(n, problem.low, problem.high),
    "rho 7": lambda problem, n: Rho(n, 7.0, problem.low, problem.high),
    "rho 3": lambda problem, n: Rho(n, 3.0, problem.low, problem.high),
    "rho 3, ended": lambda problem, n: Rho(n, 3.0, 10 * problem.low, problem.high),
    "angle": lambda problem, n: Cosine(n, problem.low, problem.high),
    "tangent": lambda problem, n: tangent(problem.variances, n, problem.high),
    "gits": lambda problem, n: problem.teachings.grid(n),
    "ays": lambda problem, n: problem.klub.grid(n),
}
"""One line a grid. The one that ends at ten times the noise scale is the planner's own; the last three are fitted."""
LEARNED = "ld3"
"""Fitted to a solver, so that it is a column of its own: to those of one evaluation a step."""
TAUGHT = ("DDIM", "DPM-Solver++ 2M")
UNIFIED, SEARCHED = "Unified", "s3"
"""A pair whose steps and levels are searched together."""
TRIES = 300
DECISIONS = Decision(1), Decision(2, slope="half"), Decision(3), Decision(2, corrector=3, slope="half")
"""Where the search begins, on every grid by hand: DDIM, DPM-Solver++ 2M, 3M and UniPC 2."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Where walks are compared.

    fitted: what grids and solvers are fitted to
    tried:  the same with other samples and other noise
    scale:  of the data, which errors are told in
    free:   whether nothing of a sample is known, and no condition: some solvers want that
    """

    fitted: Subject
    tried: Subject
    scale: float
    free: bool

    @property
    def low(self) -> float:
        """The cleanest noise scale of a grid."""
        return self.fitted.low

    @property
    def high(self) -> float:
        """The one at which walks begin."""
        return self.fitted.high

    @cached_property
    def variances(self) -> Any:
        """For the tangent's grid."""
        return variances_of(self.fitted)

    @cached_property
    def teachings(self) -> Teachings:
        """For the grid by the shape of trajectories."""
        return Teachings.of(self.fitted)

    @cached_property
    def klub(self) -> Klub:
        """For the grid by a bound on the relative entropy."""
        return Klub.measured(self.fitted)

    @cached_property
    def statistics(self) -> Any:
        """For DPM-Solver-v3."""
        return statistics_of(self.fitted.denoiser, self.fitted.x, scales=(self.low, self.high))

    def distilled(self, grid: Any) -> Any:
        """DDIM's steps, each made like ten."""
        walk = self.fitted.walk(DDIM(), grid)
        return distilled_steps(
            self.fitted.denoiser, DDIM(), grid, self.fitted.start(), self.fitted.cond, hooks=walk.hooks
        )

    @cached_property
    def taught(self) -> Tensor:
        """Where the long walks of the first end, for the grid that is learned from them."""
        return teacher_ends(self.fitted, TEACHER)

    @cached_property
    def ends(self) -> Tensor:
        """Where those of the second end."""
        return teacher_ends(self.tried, TEACHER)

    def learned(self, solver: Any, n: int) -> Any:
        """The grid that is learned from long walks."""
        return Imitation().grid(self.fitted, solver, n, self.taught)

    def searched(self, n: int) -> SolverSchedule:
        """The steps and levels that are searched for together."""
        grids = [tuple(scales_of(grid, self.fitted).tolist()) for grid in by_hand(self.fitted, n).values()]
        known = [SolverSchedule(grid, (decision,) * n) for grid in grids for decision in DECISIONS]
        score = partial(self._of_schedule, self.fitted, self.taught)
        return search_solver(score, known, TRIES).best

    @staticmethod
    def _of_schedule(subject: Subject, ends: Tensor, schedule: SolverSchedule) -> float:
        return endpoint_error(subject, schedule.solver(), schedule, ends)

    def error(self, solver: Any, grid: Any) -> float:
        """How far walks end from where they should."""
        return endpoint_error(self.tried, solver, grid, self.ends) / self.scale


def jobs(scale: Scale) -> list[Job]:
    """The three problems; then the scores of the pairs that come nearest on the last one."""
    pairs = {"solvers": sorted([*SOLVERS, *FITTED_SOLVERS, UNIFIED]), "grids": sorted([*GRIDS, LEARNED, SEARCHED])}
    shared: dict[str, Any] = {"scale": scale.name, **pairs}
    shared |= {"budgets": list(BUDGETS[:3] if scale.small else BUDGETS)}
    fv = settings(scale, PLANNERS["fv"], "fv", 1)
    trained = {"maze": "large", "demonstrations": scale.demonstrations, **fv, "starts": min(STARTS, scale.starts)}
    found = [Job(name, {"kind": "errors", "problem": name, **shared}) for name in ("plane", "low-rank")]
    found.append(Job("orders", {"kind": "orders", **shared}))
    found.append(Job("planner", {"kind": "errors", "problem": "planner", **shared, **trained}))
    acts = {**shared, **trained, "episodes": min(EPISODES, scale.episodes), "first_seed": REPORTING}
    scored = [Job(f"score-{n}", {"kind": "scores", "budget": n, **acts}, after="planner") for n in SCORED]
    return [*found, *scored]


def orders(job: Job, store: Store) -> dict[str, Any]:
    """The order of each, on the mixture and between the levels of the kernel's own measurement."""
    path = VariancePreserving()
    rows = [
        order.measured(name, (solver, CLAIMED[name]), "variance preserving", path) for name, solver in SOLVERS.items()
    ]
    off = max(rows, key=lambda row: abs(row["slope"] - row["order"]))
    return {"said": f"farthest from its claim is {off['solver']}: {off['slope']:.2f}", "rows": rows}


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
    """From noise scale 80 down to .01."""
    mixture, path = mixture_of(name), Trig(sigma_data=1.0)
    fitted, tried = (
        Subject(mixture.denoiser(path), mixture.sample(SAMPLES, seeds=seed), 0.01, 80.0, seed=seed) for seed in (0, 1)
    )
    scale = float(mixture.covariance.diagonal().mean().sqrt())
    return Problem(fitted, tried, scale, free=True)


def of_planner(agent: Any, logs: Any, starts: int) -> Problem:
    """Plans from states of the data, in the units that the network sees."""
    fit = FitGrid(samples=starts)
    planner = agent.proposer
    (fitted, _), (tried, _) = (fit.subject(planner, agent, logs, seed) for seed in (0, 1))
    return Problem(fitted, tried, 1.0, free=False)


def errors(job: Job, store: Store) -> dict[str, Any]:
    """Every pair at every budget: the root mean square distance to the end of a walk of 500 evaluations."""
    told = job.settings
    if told["problem"] == "planner":
        _, logs = logged(told, store)
        agent, _ = prepared(told, logs, store)
        problem = of_planner(agent, logs, told["starts"])
    else:
        problem = of_mixture(told["problem"])
    rows = [
        {"solver": solver, "grid": grid, **along(problem, solver, grid, told["budgets"])}
        for solver in told["solvers"]
        for grid in told["grids"]
    ]
    rows = [row for row in rows if row["budgets"]]
    found = best(rows, 5)
    return {"said": f"at 5 evaluations {found['solver']} on {found['grid']}: {found['error']:.3g}", "rows": rows}


def along(problem: Problem, solver: str, grid: str, budgets: Sequence[int]) -> dict[str, list[Any]]:
    """One pair at each budget that its steps can spend."""
    spent, found = [], []
    for budget in budgets:
        pair = made(problem, solver, grid, budget)
        if pair is not None:
            spent.append(budget)
            found.append(problem.error(*pair))
    return {"budgets": spent, "errors": found}


def made(problem: Problem, solver: str, grid: str, budget: int) -> tuple[Any, Any] | None:
    """The solver and its grid; None where no number of steps takes so many evaluations, or one of them is not for this
    problem.
    """
    if solver == UNIFIED or grid == SEARCHED:
        if (solver, grid) != (UNIFIED, SEARCHED) or budget > FEW:
            return None
        found = problem.searched(budget)
        return found.solver(), found
    own = SOLVERS.get(solver)
    steps = budget if own is None else steps_for(own, budget)
    if steps is None or steps < 2 or (solver == "DPM-Solver-v3" and not problem.free):
        return None
    if grid == LEARNED:
        if own is None or solver not in TAUGHT or budget > FEW:
            return None
        return own, problem.learned(own, steps)
    if steps > FEW and grid in ("gits", "ays"):
        return None
    on = GRIDS[grid](problem, steps)
    return (FITTED_SOLVERS[solver](problem, on) if own is None else own), on


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
    nearest = made(of_planner(agent, logs, told["starts"]), pair["solver"], pair["grid"], budget)
    assert nearest is not None
    walks = {"nearest": nearest, "own": (planner.solver, replace(planner.grid, n=budget))}
    rows = {}
    for name, (walked, on) in walks.items():
        acts = replace(agent, proposer=replace(planner, solver=walked, grid=on))
        rows[name] = outcome(evaluate(acts, maze, told["episodes"], first_seed=told["first_seed"]))
    text = ", ".join(f"{name} {np.mean(row['latched']):.1f}" for name, row in rows.items())
    return {"said": f"{pair['solver']} on {pair['grid']}: {text}", "pair": pair, "rows": rows}
