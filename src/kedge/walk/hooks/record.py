"""What happened during a walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from kedge.elementary import Level
from kedge.kernels import Gaussian, Kernel, NoDensityError, Point
from kedge.tree import Tree, sum_event, tree_map
from kedge.walk.hooks.pin import MASK
from kedge.walk.state import Hook, Place, State, Step


@dataclass(eq=False)
class Record(Hook):
    """Keeps the states, kernels and draws of the latest walk, and gives the true log-density of its random steps."""

    states: list[State] = field(default_factory=list)
    """Before each step, as the network saw them."""
    steps: list[Step] = field(default_factory=list)
    """Each step's kernel as it was drawn from, its draw, and the estimate behind it."""
    x: list[Tree] = field(default_factory=list)
    """The states: one more than there are steps."""
    end: Level = 0.0
    """The last level."""
    place: Place = "record"

    def begin(self, state: State) -> State:
        """Forgets the walk before."""
        self.states, self.steps, self.x = [], [], [state.x]
        return state

    def before(self, state: State, s: object) -> State:
        """Keeps what the network will see."""
        self.states.append(replace(state, notes=dict(state.notes)))
        self.x[-1] = state.x
        state.parent = None
        return state

    def after(self, state: State, step: Step) -> State:
        """Keeps the kernel, the draw and the state that came of it."""
        self.steps.append(step)
        self.x.append(state.x)
        self.end = state.t
        return state

    @property
    def means(self) -> list[Tree]:
        """The mean of each step."""
        return [cast(Any, step.kernel).mean for step in self.steps]

    @property
    def variances(self) -> list[Tree]:
        """The variance of each step, per entry."""
        return [cast(Any, step.kernel).variance for step in self.steps]

    @property
    def random_steps(self) -> list[int]:
        """The steps that have a density: not those of a deterministic solver, nor the last one, to clean."""
        return [i for i, step in enumerate(self.steps) if _is_random(step.kernel)]

    def log_prob(self, kernels: Sequence[Kernel] | None = None, *, average: bool = False) -> Tensor:
        """`[random steps, B]`: the log-density of what each random step drew, summed over the unpinned entries; under
        other kernels of the same steps, such as `Walk.replay` gives, instead of those that drew it.

        `average=True` divides by the number of entries, for parity with code that does: such a value is no density.
        """
        if not self.random_steps or self.states[0].walk.solver.density == "none":
            raise NoDensityError("this walk's steps have no density: use a random solver, DDPM() or DDIM(eta=1)")
        kernels = [step.kernel for step in self.steps] if kernels is None else kernels
        if len(kernels) != len(self.steps):
            raise ValueError(f"{len(kernels)} kernels for a record of {len(self.steps)} steps")
        return torch.stack([sum_event(self._per_entry(i, kernels[i]), average) for i in self.random_steps])

    def divergence(self, kernels: Sequence[Kernel], others: Sequence[Kernel], *, average: bool = False) -> Tensor:
        """`[random steps, B]`: how far the first kernels are from the others at the states that were visited, as
        `Walk.replay` gives both, summed over the unpinned entries.
        """
        steps = self.random_steps
        return torch.stack([sum_event(self._unpinned(i, kernels[i].kl(others[i])), average) for i in steps])

    def _per_entry(self, i: int, kernel: Kernel) -> Tree:
        drawn = self.steps[i].drawn
        assert drawn is not None  # a step is kept after its draw
        return self._unpinned(i, kernel.log_prob(drawn))

    def _unpinned(self, i: int, values: Tree) -> Tree:
        """Pinned entries count for nothing."""
        pinned = self.states[i].notes.get(MASK)
        return values if pinned is None else tree_map(lambda value, m: torch.where(m, 0.0, value), values, pinned)


def _is_random(kernel: Kernel) -> bool:
    """Where levels are tensors, a step that moves nothing at random is a Gaussian whose std is 0 everywhere."""
    if isinstance(kernel, Gaussian) and isinstance(kernel.std, Tensor):
        return bool((kernel.std > 0).any())
    return not isinstance(kernel, Point)
