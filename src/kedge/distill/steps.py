"""Many steps of a solver in few of its own, by one number a step: the network stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from kedge.distill.stored import store, stored
from kedge.elementary import Level
from kedge.errors import InputError
from kedge.kernels import Point
from kedge.paths.gaussian import GaussianPath
from kedge.tree import Tree, leaves, tree_map
from kedge.walk import Hook, Solver, State, Step, Walk
from kedge.walk.grids import Grid, Levels
from kedge.walk.hooks.pin import MASK
from kedge.walk.solvers.mixed import Mixed, Predicted, Read

FILE = "steps"
"""What shares are called next to a run."""


def distilled_steps(
    denoiser: Any,
    solver: Solver,
    grid: Grid,
    x: Tree,
    cond: Any = None,
    *,
    substeps: int = 10,
    predicted: Predicted = "eps",
    hooks: Sequence[Hook] = (),
) -> Mixed:
    """The solver with the shares that make each of its steps most like `substeps` of its own, in order, each from where
    the steps before have led: with T_i what the small steps together predict,

        share_i = <T_i - D_i, D_i - D_{i-1}> / |D_i - D_{i-1}|^2

    over the batch (Kim, Tang and Yu, CVPR 2024). `1 + substeps` evaluations a step, once.

    Args:
        denoiser: what will be walked.
        solver: deterministic.
        grid: whose steps they are.
        x: about a hundred starts, as a walk takes them.
        cond: what they are conditioned on.
        substeps: of each step.
        predicted: in what the steps are compared and mixed: see `Mixed`.
        hooks: of the walks that will be made. Entries that one pins count for nothing.
    """
    if substeps < 2:
        raise ValueError(f"distilled_steps: a step is compared with 2 or more small ones, not {substeps}")
    if solver.density != "none":
        raise ValueError(f"Mixed takes a deterministic solver, not {solver}")
    teaching = _Teaching(substeps, predicted, tuple(hooks))
    Walk(denoiser, solver, grid, [teaching, *hooks]).run(x, cond)
    return Mixed(solver, tuple(teaching.shares), predicted)


@dataclass(eq=False)
class _Teaching(Hook):
    """Fits the share of each step, and makes the step with it."""

    substeps: int
    predicted: Predicted
    hooks: tuple[Hook, ...]
    shares: list[float] = field(default_factory=list)
    _before: Tree | None = None
    _s: Level = 0.0

    def before(self, state: State, s: Level) -> State:
        """Notes where the step goes."""
        self._s = s
        return state

    def kernel(self, state: State, step: Step) -> tuple[State, Step]:
        """The step as it will be."""
        if isinstance(state.t, Tensor) or isinstance(self._s, Tensor):
            raise InputError("distilled_steps: the grid's levels are tensors; shares are fitted to one level for all")
        path, end = state.walk.path, cast(Point, step.kernel).mean
        read, share = Read.of(path, state.t, self._s, self.predicted), 0.0
        if self._before is not None:
            taught = read.prediction(state.x, self._taught(state, self._s))
            share = _share(taught, read.prediction(state.x, end), self._before, state.notes.get(MASK))
        end, self._before = read.mixed(share, state.x, end, self._before)
        self.shares.append(share)
        step.kernel = Point(end)
        return state, step

    def _taught(self, state: State, s: float) -> Tree:
        levels = between(state.walk.path, cast(float, state.t), s, self.substeps)
        return replace(state.walk, hooks=self.hooks).run(state.x, state.given, levels=levels).x


def between(path: GaussianPath, t: float, s: float, count: int, rho: float = 7.0) -> Levels:
    """`count` steps from t to s, which may be clean, evenly in `(sigma / alpha)^(1/rho)`."""
    high, low = (path.noise_scale(level) ** (1 / rho) for level in (t, s))
    inner = [path.time_at((high + (low - high) * i / count) ** rho) for i in range(1, count)]
    return Levels([t, *inner, s])


def _share(taught: Tree, predicted: Tree, before: Tree, pinned: Tree | None) -> float:
    """`<T - D, D - D'> / |D - D'|^2` over the entries that are not pinned; 0 where D has not changed."""
    trees = [taught, predicted, before]
    if pinned is not None:
        trees = [tree_map(lambda leaf, m: leaf.masked_fill(m, 0.0), tree, pinned) for tree in trees]
    each = zip(*(leaves(tree) for tree in trees), strict=True)
    sums = [torch.stack([((T - D) * (D - was)).sum(), ((D - was) ** 2).sum()]).double() for T, D, was in each]
    up, down = torch.stack(sums).sum(0).tolist()
    return up / down if down > 0 else 0.0


def store_steps(folder: Path | str, mixed: Mixed) -> None:
    """Next to a run."""
    said = {"solver": repr(mixed.solver), "predicted": mixed.predicted}
    store(folder, FILE, {"shares": torch.tensor(mixed.shares, dtype=torch.float64)}, said)


def stored_steps(folder: Path | str, solver: Solver) -> Mixed:
    """What was stored, for the solver that it was fitted to."""
    tensors, said = stored(folder, FILE, {"solver": str, "predicted": str})
    if said["solver"] != repr(solver):
        raise InputError(f"{folder}: its steps were fitted to {said['solver']}, not to {solver}")
    return Mixed(solver, tuple(tensors["shares"].tolist()), cast(Predicted, said["predicted"]))
