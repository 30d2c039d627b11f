"""What a walk carries, and what solvers and hooks promise it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from kedge.cond import take_cond
from kedge.denoise import Estimate, Estimator, Rule
from kedge.elementary import Level
from kedge.kernels import Kernel
from kedge.noise import Noise
from kedge.paths.gaussian import GaussianPath
from kedge.tree import Tree, first_leaf, take

Density = Literal["step", "walk", "none"]
"""Whether a solver's steps have a density: given x_t alone; given the walk so far (multistep); or not at all."""

Place = Literal["move", "project", "pin", "record", "weigh"]
"""What a hook does, in the order in which hooks must stand."""


@dataclass(slots=True)
class State:
    """All that is per sample. Hooks and solvers keep nothing per sample on themselves."""

    x: Tree
    t: Level
    """One level for all, or a tensor of levels with a batch axis of 1."""
    cond: Any
    noise: Noise
    walk: Any
    """The `Walk` that this is a state of: its path, denoiser and solver. Not per sample."""
    step: int = 0
    memory: dict[str, Tree] = field(default_factory=dict)
    """The solver's. Empty at the start and after a rise; a hook that moves x far may clear it."""
    notes: dict[str, Tree] = field(default_factory=dict)
    """The hooks'."""
    parent: Tensor | None = None
    """Where each sample stood before the last `take`; None: where it stands now."""
    given: Any = None
    """What `cond` was encoded from: a replay encodes it anew. A hook that changes `cond` sets this to None."""

    @property
    def batch(self) -> int:
        """The number of samples."""
        return first_leaf(self.x).shape[0]

    def take(self, index: Tensor, fork: bool = True) -> State:
        """The samples at `index`, with everything that belongs to them. Copies of one sample get noise of their own."""
        return State(
            x=take(self.x, index),
            t=self.t,
            cond=take_cond(self.cond, index),
            noise=self.noise.take(index, fork),
            walk=self.walk,
            step=self.step,
            memory={name: take(value, index) for name, value in self.memory.items()},
            notes={name: take(value, index) for name, value in self.notes.items()},
            parent=index if self.parent is None else self.parent.index_select(0, index),
            given=take_cond(self.given, index),
        )


@dataclass(slots=True)
class Step:
    """One step before and after it is drawn."""

    kernel: Kernel
    memory: dict[str, Tree]
    estimate: Estimate | None
    """None where no network was asked, as when the level rises."""
    drawn: Tree | None = None
    """What was drawn from the kernel, before any hook moved it."""
    rises: bool = False
    """Whether the path made it, by noising, rather than the solver."""
    heard: Rule | None = None
    """What was changed where the network heard another level than the solver went by."""


@runtime_checkable
class Solver(Protocol):
    """A rule for one step. Solvers are frozen; what they remember is in `state.memory`."""

    @property
    def density(self) -> Density:
        """Whether its steps have a density."""
        ...

    def evaluations(self, steps: int) -> int:
        """Network evaluations of a walk of so many steps, the last one to clean."""
        ...

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> Sequence[Any]:
        """The coefficients of each step, once a walk."""
        ...

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: Any) -> Step:
        """From `state.t` to `s`."""
        ...


class Hook:
    """What must hold during a walk. Each moment is optional: overriding it is what makes the walk call it."""

    place: Place = "move"

    def wrap(self, denoiser: Estimator) -> Estimator:
        """Once, before the walk: the denoiser as this hook wants it."""
        return denoiser

    def begin(self, state: State) -> State:
        """On the start."""
        return state

    def before(self, state: State, s: Level) -> State:
        """On x_t, before the network is asked for the step to `s`."""
        return state

    def kernel(self, state: State, step: Step) -> tuple[State, Step]:
        """On the mean and std, before the draw."""
        return state, step

    def inside(self, state: State, x: Tree, t: Level) -> Tree:
        """On a point that a solver makes for itself inside a step, at level t, before the network is asked there."""
        return x

    def after(self, state: State, step: Step) -> State:
        """On x_s."""
        return state
