"""What happened during a walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from kedge.cond import Cond, take_cond
from kedge.elementary import Level
from kedge.kernels import Gaussian, Kernel, NoDensityError, Point
from kedge.noise import Noise
from kedge.tree import Tree, sum_event, take, tree_map
from kedge.walk.grids.levels import Levels
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

    @classmethod
    def joined(cls, records: Sequence[Record]) -> Record:
        """Records of walks over the same levels as one, the samples of the first before those of the second.
        Estimates are left behind.
        """
        first = records[0]
        _check_joinable(records)
        whole = cls(end=first.end, x=[_joined([record.x[i] for record in records]) for i in range(len(first.x))])
        given = _joined([record.states[0].given for record in records])
        for i in range(len(first.steps)):
            whole.states.append(_one_state([record.states[i] for record in records], given))
            whole.steps.append(_one_step([record.steps[i] for record in records]))
        return whole

    def take(self, index: Tensor) -> Record:
        """The walks of the samples at `index`. Estimates are left behind."""
        _check_joinable([self])
        some = Record(end=self.end, x=[take(x, index) for x in self.x])
        given = take_cond(self.states[0].given, index)
        for was, step in zip(self.states, self.steps, strict=True):
            state = replace(was, given=None, cond=was.cond if given is None else None).take(index, fork=False)
            some.states.append(replace(state, given=given, parent=None))
            drawn = take(cast(Tree, step.drawn), index)
            some.steps.append(Step(step.kernel.take(index), {}, None, drawn, step.rises, step.heard))
        return some

    @property
    def levels(self) -> Levels:
        """That were walked over."""
        rows: list[Any] = [*(state.t for state in self.states), self.end]
        walk = self.states[0].walk
        t = torch.cat(rows) if isinstance(rows[0], Tensor) else rows
        return Levels(t, walk.grid.levels(walk.path).rise)

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

    def log_prob(
        self, kernels: Sequence[Kernel] | None = None, steps: Sequence[int] | None = None, *, average: bool = False
    ) -> Tensor:
        """`[random steps, B]`: the log-density of what each random step drew, summed over the unpinned entries; under
        other kernels of the same steps, such as `Walk.replay` gives, instead of those that drew it.

        Args:
            kernels: of all steps, or of `steps`.
            steps: which of the random steps; by default all of them.
            average: divides by the number of entries, for parity with code that does: such a value is no density.
        """
        return torch.stack([sum_event(entries, average) for entries in self.log_prob_entries(kernels, steps)])

    def log_prob_back(self) -> Tensor:
        """`[random steps, B]`: the log-density with which the path's own noising, `q(x_t | x_s)`, would have gone back
        from what each random step drew to where it came from, summed over the unpinned entries.
        """
        ends = [*(state.t for state in self.states[1:]), self.end]
        return torch.stack([sum_event(self._noised_back(i, ends[i])) for i in self.random_steps])

    def _noised_back(self, i: int, s: Level) -> Tree:
        state, drawn = self.states[i], self.steps[i].drawn
        assert drawn is not None  # a step is kept after its draw
        return self._unpinned(i, state.walk.path.up(drawn, s, state.t).log_prob(state.x))

    def log_prob_entries(
        self, kernels: Sequence[Kernel] | None = None, steps: Sequence[int] | None = None
    ) -> list[Tree]:
        """The log-density of each entry of each random step, 0 where it is pinned: what `log_prob` sums."""
        if not self.random_steps or self.states[0].walk.solver.density == "none":
            raise NoDensityError("this walk's steps have no density: use a random solver, DDPM() or DDIM(eta=1)")
        return [self._per_entry(i, kernel) for i, kernel in self._paired(kernels, steps)]

    def divergence(
        self,
        kernels: Sequence[Kernel],
        others: Sequence[Kernel],
        steps: Sequence[int] | None = None,
        *,
        average: bool = False,
    ) -> Tensor:
        """`[random steps, B]`: how far the first kernels are from the others at the states that were visited, as
        `Walk.replay` gives both, summed over the unpinned entries.
        """
        both = zip(self._paired(kernels, steps), self._paired(others, steps), strict=True)
        return torch.stack([sum_event(self._unpinned(i, one.kl(other)), average) for (i, one), (_, other) in both])

    def _paired(self, kernels: Sequence[Kernel] | None, steps: Sequence[int] | None) -> list[tuple[int, Kernel]]:
        """Each random step, or each of `steps`, with its kernel."""
        random = self.random_steps
        if steps is not None and not set(steps) <= set(random):
            raise ValueError(f"only steps {random} of this record are random, not all of {list(steps)}")
        if kernels is None:
            return [(i, self.steps[i].kernel) for i in (random if steps is None else steps)]
        if len(kernels) != len(self.steps if steps is None else steps):
            where = f"a record of {len(self.steps)} steps" if steps is None else f"{len(steps)} steps"
            raise ValueError(f"{len(kernels)} kernels for {where}")
        return [(i, kernels[i]) for i in random] if steps is None else list(zip(steps, kernels, strict=True))

    def _per_entry(self, i: int, kernel: Kernel) -> Tree:
        drawn = self.steps[i].drawn
        assert drawn is not None  # a step is kept after its draw
        return self._unpinned(i, kernel.log_prob(drawn))

    def _unpinned(self, i: int, values: Tree) -> Tree:
        """Pinned entries count for nothing."""
        pinned = self.states[i].notes.get(MASK)
        return values if pinned is None else tree_map(lambda value, m: torch.where(m, 0.0, value), values, pinned)


def _check_joinable(records: Sequence[Record]) -> None:
    if any(_levels(record) != _levels(records[0]) for record in records):
        raise ValueError("only walks over the same levels can be joined")
    states = [state for record in records for state in record.states]
    if any(state.parent is not None for state in states):
        raise ValueError("walks that were branched on the way can neither be joined nor be divided")


def _levels(record: Record) -> list[Any]:
    """All of them, as numbers where they are tensors."""
    rows = [*(state.t for state in record.states), record.end]
    return [row.tolist() if isinstance(row, Tensor) else row for row in rows]


def _joined(trees: Sequence[Any]) -> Any:
    """One batch of several; None of nothing."""
    first = trees[0]
    if first is None:
        return None
    if isinstance(first, Cond):
        fields = {name: torch.cat([cond.fields[name] for cond in trees]) for name in first.fields}
        return Cond(fields, {name: torch.cat([cond.keep[name] for cond in trees]) for name in first.keep})
    return tree_map(lambda *leaf: torch.cat(leaf), *trees)


def _one_state(states: Sequence[State], given: Any) -> State:
    """What was encoded of a condition is left out where it can be encoded anew."""
    first = states[0]
    return replace(
        first,
        x=_joined([state.x for state in states]),
        cond=None if given is not None else _joined([state.cond for state in states]),
        given=given,
        noise=Noise(torch.cat([state.noise.key for state in states])),
        memory={name: _joined([state.memory[name] for state in states]) for name in first.memory},
        notes={name: _joined([state.notes[name] for state in states]) for name in first.notes},
    )


def _one_step(steps: Sequence[Step]) -> Step:
    """Kernels are joined by their means; what they have of standard deviations is the same number or joined too."""
    first, kernels = steps[0], cast(Any, [step.kernel for step in steps])
    levels = [name for name in ("std", "spread") if hasattr(kernels[0], name)]
    changed = {name: _one_level([getattr(kernel, name) for kernel in kernels]) for name in levels}
    kernel = replace(kernels[0], mean=_joined([kernel.mean for kernel in kernels]), **changed)
    return Step(kernel, {}, None, _joined([step.drawn for step in steps]), first.rises, first.heard)


def _one_level(levels: Sequence[Level]) -> Level:
    each = [level for level in levels if isinstance(level, Tensor) and level.ndim and level.shape[0] > 1]
    return torch.cat(each) if len(each) == len(levels) else levels[0]


def _is_random(kernel: Kernel) -> bool:
    """Where levels are tensors, a step that moves nothing at random is a Gaussian whose std is 0 everywhere."""
    if isinstance(kernel, Gaussian) and isinstance(kernel.std, Tensor):
        return bool((kernel.std > 0).any())
    return not isinstance(kernel, Point)
