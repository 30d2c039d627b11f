"""The walk: from noise to data over a grid of levels. There is this one loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kedge.capture import unseen
from kedge.denoise import Estimate, Estimator, Rule, Wrapped, as_estimator
from kedge.elementary import Level
from kedge.kernels import Kernel, NoDensityError
from kedge.matrix import Matrix
from kedge.noise import Noise, Seeds
from kedge.paths.gaussian import GaussianPath, affine
from kedge.tree import Tree, all_finite, first_leaf, leaves, take, tree_map
from kedge.walk.adjoint import check_adjoint, through
from kedge.walk.grids.levels import Grid, Levels, rises, shown
from kedge.walk.hooks.record import Record
from kedge.walk.solvers.dpm_solver_pp import DPMSolverPP
from kedge.walk.solvers.statistics import Statistics
from kedge.walk.state import Hook, Place, Solver, State, Step

Grad = bool | int | Literal["checkpoint", "adjoint"]
"""Gradients through the walk: none, all, recomputed on the way back, by the adjoint equation, of the last K steps."""

Moment = Callable[..., Any]


HOST = torch.device("cpu")
_SUCH_AS = {"solver": "DDPM()", "grid": "LogSNR(20)"}


class Plan(NamedTuple):
    """The levels of a walk, the solver's coefficients of each step, and the steps that go up by noising."""

    rows: list[Level]
    coefficients: Sequence[Any]
    ups: frozenset[int]
    heard: Sequence[Rule | None]
    """What is changed where the network hears another level than the solver goes by."""


class Moments(NamedTuple):
    """The hooks' bound methods: only those that a hook defines, so that an empty moment costs nothing."""

    begin: tuple[Moment, ...]
    before: tuple[Moment, ...]
    kernel: tuple[Moment, ...]
    inside: tuple[Moment, ...]
    after: tuple[Moment, ...]


@dataclass(frozen=True)
class Walk:
    """A denoiser, a solver, a grid and hooks. `run` it as often as you like."""

    denoiser: Any
    solver: Solver
    grid: Grid
    hooks: Sequence[Hook] = ()
    estimator: Estimator = field(init=False, repr=False, compare=False)
    """The denoiser as the hooks want it."""
    _moments: Moments = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, part, asked in (("solver", self.solver, "plan"), ("grid", self.grid, "levels")):
            if isinstance(part, type) or not hasattr(part, asked):
                raise TypeError(f"{name} must be an object from kedge.{name}s, such as {_SUCH_AS[name]}, not {part!r}")
        _check_order(self.hooks)
        estimator = as_estimator(self.denoiser)
        for hook in self.hooks:
            estimator = hook.wrap(estimator)
        object.__setattr__(self, "estimator", estimator)
        moments = (_overridden(self.hooks, moment) for moment in Moments._fields)
        object.__setattr__(self, "_moments", Moments(*moments))

    @property
    def path(self) -> GaussianPath:
        """The denoiser's path."""
        return self.estimator.path

    def run(
        self, x: Tree, cond: Any = None, *, levels: Levels | None = None, seeds: Seeds = None, grad: Grad = False
    ) -> State:
        """Walks `x` from the first level of the grid to its last.

        Args:
            x: the start, noised to the first level: `path.prior(shape)`, or anything else at that level.
            cond: what the network is conditioned on; encoded once.
            levels: levels for this run in place of the grid's, to start or end anywhere.
            seeds: one number for the call, or one for each sample, which then has the same noise in any batch.
                None takes a number from torch's generator.
            grad: True for gradients through the whole walk, `"checkpoint"` for the same in less memory, `"adjoint"` for
                those of the differential equation that a deterministic walk solves, in the memory of one step; K for
                those of the last K steps.
        """
        _check_start(x)
        noise = Noise.of(seeds, first_leaf(x).shape[0], first_leaf(x).device)
        plan = planned(self.path, levels or self.grid, self.solver, first_leaf(x).device)
        _check_entries(plan.rows[0], x)
        n = len(plan.coefficients)
        free = without_gradient(grad, n)
        with torch.set_grad_enabled(free < n):
            told = self.estimator.prepare(cond)
        with torch.set_grad_enabled(free == 0):
            state = self._begin(x, told, cond, noise, plan)
        with torch.no_grad():
            state = self._steps(state, plan, 0, free)
        if grad == "adjoint":
            with torch.enable_grad():
                state = self._by_adjoint(state, plan)
        elif free < n:
            with torch.enable_grad():
                state = self._steps(state, plan, free, n, recompute=grad == "checkpoint")
        if not _finite(state.x):
            raise ValueError(self._blame(self._begin(x, told, cond, noise, plan), plan))
        return state

    def _begin(self, x: Tree, told: Any, cond: Any, noise: Noise, plan: Plan) -> State:
        # A copy: hooks and networks may work in place, and the start is the caller's.
        state = State(tree_map(torch.clone, x), plan.rows[0], told, noise, self, given=cond)
        for begin in self._moments.begin:
            state = begin(state)
        return state

    def _steps(self, state: State, plan: Plan, first: int, last: int, recompute: bool = False) -> State:
        moments = self._moments
        for i in range(first, last):
            for before in moments.before:
                state = before(state, plan.rows[i + 1])
                _check_level(state, plan.rows[i])
            state, step = self._propose(state, plan, i, recompute)
            state.x = step.drawn = step.kernel.draw(state.noise, state.step)
            state.t, state.memory, state.step = plan.rows[i + 1], step.memory, i + 1
            for after in moments.after:
                state = after(state, step)
        return state

    def _by_adjoint(self, state: State, plan: Plan) -> State:
        """The steps between levels above 0 as a differential equation, the one to clean as it is."""
        moments = self._moments
        check_adjoint(self.solver, any(moments), plan.rows, plan.ups)
        n = len(plan.coefficients)
        last = n - 1 if plan.rows[-1] == 0 else n
        rows = cast("list[float]", plan.rows[: last + 1])
        state.x, state.t, state.step = through(self.estimator, self._bare, state.x, state.cond, rows), rows[-1], last
        return self._steps(state, plan, last, n)

    def _bare(self, denoiser: Estimator, x: Tree, told: Any, levels: Levels) -> Tree:
        """Where a walk with this solver and no hooks ends; what is told is encoded already."""
        walk = replace(self, denoiser=denoiser, hooks=())
        plan = planned(walk.path, levels, walk.solver, first_leaf(x).device)
        state = State(x, plan.rows[0], told, Noise.of(0, 1), walk)
        return walk._steps(state, plan, 0, len(plan.coefficients)).x

    def _propose(self, state: State, plan: Plan, i: int, recompute: bool = False) -> tuple[State, Step]:
        """Step i before it is drawn: the only place that asks the network."""
        s = plan.rows[i + 1]
        if i in plan.ups:
            step = Step(self.path.up(state.x, state.t, s), {}, None, rises=True)
        elif recompute:
            arguments = self._asked(state, plan.heard[i]), replace(state), s, plan.coefficients[i]
            step = checkpoint(self.solver.step, *arguments, use_reentrant=False)
        else:
            step = self.solver.step(self._asked(state, plan.heard[i]), state, s, plan.coefficients[i])
        step.heard = plan.heard[i]
        for change in self._moments.kernel:
            state, step = change(state, step)
        return state, step

    def _asked(self, state: State, heard: Rule | None) -> Estimator:
        """The denoiser for one step; hooks that want to see the points that a solver makes inside the step do so."""
        moments = self._moments.inside
        estimator = self.estimator if heard is None else Wrapped(self.estimator, heard)
        if not moments:
            return estimator
        was = replace(state)

        def seen(inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
            if x_t is not was.x:
                for inside in moments:
                    x_t = inside(was, x_t, t)
            return inner.estimate(x_t, t, cond)

        return Wrapped(estimator, seen)

    def replay(self, record: Record, denoiser: Any = None, steps: Sequence[int] | None = None) -> list[Kernel]:
        """The kernels that the recorded steps have under `denoiser` (by default the walk's own): the same solver, the
        same hooks on the kernel, at the recorded states. Gradients flow as the caller has them switched. The
        condition is encoded anew, once, by the denoiser that replays.

        Args:
            record: of a walk with this solver.
            denoiser: another denoiser, or the same with other weights.
            steps: which steps; only where a step depends on x_t alone. By default all.
        """
        density = self.solver.density
        if density == "none":
            raise NoDensityError(f"{self.solver} is deterministic: its steps have no density to replay")
        if density == "walk" and steps is not None:
            raise ValueError(
                f"{self.solver} remembers earlier estimates: only the whole walk can be replayed, not {steps=}"
            )
        if not record.steps:
            raise ValueError("nothing is recorded: give the Record to a walk first")
        walk = self if denoiser is None else replace(self, denoiser=denoiser)
        rows = [state.t for state in record.states] + [record.end]
        ups = (i for i, step in enumerate(record.steps) if step.rises)
        heard = [step.heard for step in record.steps]
        plan = Plan(rows, walk.solver.plan(walk.path, rows), frozenset(ups), heard)
        kernels: list[Kernel] = []
        memory: dict[str, Tree] = {}
        told: dict[int, Any] = {}
        for i in range(len(record.states)) if steps is None else steps:
            was = record.states[i]
            if was.parent is not None:
                memory = {name: take(value, was.parent) for name, value in memory.items()}
            if was.given is not None and id(was.given) not in told:
                told[id(was.given)] = walk.estimator.prepare(was.given)
            cond = told.get(id(was.given), was.cond)
            _, step = walk._propose(replace(was, walk=walk, memory=memory, cond=cond), plan, i)
            kernels.append(step.kernel)
            memory = step.memory
        return kernels

    def _blame(self, state: State, plan: Plan) -> str:
        """Walks again, step by step, and says where the numbers stopped being finite."""
        n = len(plan.coefficients)
        for i in range(n):
            with torch.no_grad():
                state = self._steps(state, plan, i, i + 1)
            if not _finite(state.x):
                return (
                    f"the walk left the finite numbers in step {i + 1} of {n}, from level {shown(plan.rows[i])} to "
                    f"{shown(plan.rows[i + 1])}: the network's output there is not finite, or too large for "
                    f"{first_leaf(state.x).dtype}"
                )
        return "the walk ended in numbers that are not finite, but not when it was repeated: is the network random?"


def sample(
    denoiser: Any,
    noise: Tree,
    grid: Grid,
    solver: Solver | None = None,
    hooks: Sequence[Hook] = (),
    cond: Any = None,
    seeds: Seeds = None,
    grad: Grad = False,
) -> Any:
    """Denoises `noise` over the grid: `Walk(denoiser, solver, grid, hooks).run(noise, cond, ...).x`.

    Args:
        denoiser: a `Denoiser`, anything that wraps one, or any callable `f(x_t, t) -> x` with a `.path`.
        noise: the start: `path.prior(shape)`.
        grid: the levels, from `kedge.grids`.
        solver: from `kedge.solvers`; by default DPM-Solver++(2M).
        hooks: from `kedge.hooks`, in order: what moves the state, projection, `Pin`, `Record`.
        cond: what the network is conditioned on.
        seeds: one number for the call, or one for each sample.
        grad: whether, and how, gradients flow through the walk: see `Walk.run`.
    """
    walk = Walk(denoiser, DPMSolverPP(order=2) if solver is None else solver, grid, hooks)
    return walk.run(noise, cond, seeds=seeds, grad=grad).x


def planned(path: GaussianPath, grid: Grid, solver: Solver, device: torch.device = HOST) -> Plan:
    """The plan of a walk, its coefficients where the state lies, remembered where path, grid and solver are plain
    values; in a compiled graph it is part of the graph, and torch's compiler warns of what remembers.
    """
    if not torch.compiler.is_dynamo_compiling() and all(is_remembered(part) for part in (path, grid, solver)):
        return _remembered(path, grid, solver, device)
    return _plan(path, grid, solver, device)


def _plan(path: GaussianPath, grid: Grid, solver: Solver, device: torch.device) -> Plan:
    levels = grid.levels(path)
    if not isinstance(grid, Levels):  # those given by hand have just been checked
        levels = levels.levels(path)
    rows = levels.rows()
    ups = [i for i in range(len(rows) - 1) if levels.rise != "refuse" and rises(rows[i], rows[i + 1])]
    if ups and levels.rise == "solve" and solver.density != "none":
        raise ValueError(f'rise="solve" inverts the deterministic flow, but {solver} is random: use DDIM()')
    told = levels.heard() or [None] * (len(rows) - 1)
    heard = [None if u is None else _hearing(path, t, u) for t, u in zip(rows, told, strict=False)]
    coefficients = solver.plan(path, rows)
    if device != HOST:  # once a walk, rather than a copy in each step that the host waits for
        coefficients = _moved(coefficients, device)
    return Plan(rows, coefficients, frozenset(ups if levels.rise == "noise" else ()), heard)


def _moved(part: Any, device: torch.device) -> Any:
    """The tensors of coefficients, but for plain numbers."""
    if isinstance(part, Tensor):
        return part.to(device) if part.ndim else part
    if isinstance(part, Matrix):
        return Matrix(part.values.to(device))
    if isinstance(part, tuple | list):
        each = [_moved(one, device) for one in part]
        return type(part)(*each) if hasattr(part, "_fields") else type(part)(each)
    return part


def _hearing(path: GaussianPath, t: Level, u: Level) -> Rule:
    """At level t, the noise that the network hears in x_t as if it were of level u:

    x_hat = (x_t - sigma_t z_hat) / alpha_t,    z_hat = (x_t - alpha_u D(x_t, u)) / sigma_u
    """
    level, share = t, path.sigma(t) / path.sigma(u)
    a, b = (1 - share) / path.alpha(t), share * path.alpha(u) / path.alpha(t)

    def rule(inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
        own = t is level if isinstance(level, Tensor) else not isinstance(t, Tensor) and t == level
        if not own:  # a point that the solver makes for itself inside the step
            return inner.estimate(x_t, t, cond)
        estimate = inner.estimate(x_t, u, cond)
        return replace(estimate, x=affine(a, x_t, b, estimate.x))

    return rule


_remembered = lru_cache(maxsize=128)(_plan)


_PLAIN = (str, float, int, type(None))


def is_remembered(part: Any) -> bool:
    """Whether a plan that is made of it may be kept: where it is plain, or frozen, compared by its fields, and with
    nothing in them that can change (a learned path holds tensors); or a table that is made once, and is itself alone.
    """
    if isinstance(part, (*_PLAIN, Statistics)):
        return True
    if isinstance(part, tuple):
        return all(is_remembered(one) for one in part)
    parameters = getattr(type(part), "__dataclass_params__", None)
    if parameters is None or not (parameters.frozen and parameters.eq):
        return False
    return all(is_remembered(value) for value in vars(part).values())


def _finite(x: Tree) -> bool:
    return unseen() or all_finite(x)


def without_gradient(grad: Any, n: int) -> int:
    """How many of n steps come before those that keep gradients."""
    if grad in ("checkpoint", "adjoint"):
        return 0
    if not isinstance(grad, int) or grad < 0:
        raise ValueError(f'grad is True, False, "checkpoint", "adjoint" or a number of last steps, not {grad!r}')
    return 0 if grad is True else max(n - grad, 0)


def _check_entries(level: Level, x: Tree) -> None:
    if isinstance(level, Tensor) and level.ndim:
        for leaf in leaves(x):
            if level.ndim > leaf.ndim or any(a not in (1, b) for a, b in zip(level.shape, leaf.shape, strict=False)):
                raise ValueError(
                    f"levels for entries {tuple(level.shape[1:])} do not fit a state of entries {tuple(leaf.shape[1:])}"
                )


def _check_level(state: State, planned: Level) -> None:
    """The coefficients of the steps are those of the grid's levels."""
    if state.t is not planned:
        raise ValueError('a hook may not change the level: noise is added on the way by a grid with rise="noise"')


def _check_start(x: Any) -> None:
    if not isinstance(x, Tensor) and not (isinstance(x, dict) and all(isinstance(v, Tensor) for v in x.values())):
        raise TypeError(f"a walk starts from a tensor or a dictionary of tensors, not {type(x).__name__}")
    if not leaves(x):
        raise ValueError("the walk's start is a dictionary without fields")
    for leaf in leaves(x):
        if leaf.ndim == 0 or not leaf.is_floating_point():
            raise ValueError(
                f"a walk starts from floating-point noise with a batch axis, got {leaf.dtype} {tuple(leaf.shape)}"
            )
    batches = [leaf.shape[0] for leaf in leaves(x)]
    if min(batches) != max(batches):
        raise ValueError(f"the fields of the walk's start differ in batch: {batches} samples")
    if not _finite(x):
        raise ValueError("the walk's start holds numbers that are not finite")


def _check_order(hooks: Sequence[Any]) -> None:
    places = get_args(Place)
    if isinstance(hooks, Hook):
        raise TypeError(f"hooks is a list: [{type(hooks).__name__}(...)]")
    for hook in hooks:
        if not isinstance(hook, Hook) or hook.place not in places:
            raise ValueError(f"{hook!r} is no kedge.walk.Hook whose place is one of {', '.join(places)}")
    for first, second in pairwise(hooks):
        if places.index(first.place) > places.index(second.place):
            raise ValueError(
                f"hook {type(second).__name__} must stand before {type(first).__name__}: what moves the state, then "
                "projection, Pin, Record, and weighing last"
            )


def _overridden(hooks: Sequence[Hook], moment: str) -> tuple[Moment, ...]:
    return tuple(getattr(hook, moment) for hook in hooks if getattr(type(hook), moment) is not getattr(Hook, moment))
