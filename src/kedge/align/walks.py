"""Walks that were recorded to be learned from: drawn, rewarded, kept, drawn again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from kedge.align.rewards import Reward, rewarded
from kedge.cond import Cond, take_cond
from kedge.elementary import Level
from kedge.kernels import Categorical, Gaussian, Kernel, Point
from kedge.noise import Noise
from kedge.slots import CONDITION_SLOT, KEPT_SLOT, PART_SLOT, SHARED_SLOT, START_SLOT
from kedge.train import Source, Tick
from kedge.tree import Tree, take
from kedge.walk import Hook, State, Step, Walk
from kedge.walk.grids.levels import Levels
from kedge.walk.hooks import Record
from kedge.walk.state import Place

BY_SAMPLE = ("reward", "plugged", "group", "counts", "errors", "ahead", "returns")
"""What a batch may hold beside the walks and the rewards of entries; the last axis counts the samples."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """A batch of walks and what they are worth.

    record:  what happened
    reward:  `[B]`, of the ends; 0 where it failed
    entries: the reward of each entry of a sample, where a reward says so much
    plugged: `[K, B]`, the reward of the clean estimate before each random step; None where nobody asked
    group:   `[B]` whole numbers, the same for samples of one condition; None: all are one group
    counts:  `[B]` booleans, False where the reward failed; None: all count
    errors:  `[n, B]`, of denoising its end, by the weights that drew it: see `Measured`; None where nobody asked
    ahead:   `[B]`, how much better than a critic expected what followed a walk was, where walks are actions
    returns: `[B]`, what that critic is then to say
    """

    record: Record
    reward: Tensor
    entries: Tree | None = None
    plugged: Tensor | None = None
    group: Tensor | None = None
    counts: Tensor | None = None
    errors: Tensor | None = None
    ahead: Tensor | None = None
    returns: Tensor | None = None

    def take(self, index: Tensor) -> Recorded:
        """The walks of the samples at `index`, as if there had been no others."""
        entries = None if self.entries is None else take(self.entries, index)
        last = {name: one[..., index] for name in BY_SAMPLE if (one := getattr(self, name)) is not None}
        return replace(self, record=self.record.take(index), entries=entries, **last)

    @property
    def drawn(self) -> Tensor:
        """`[K, B]`, the log-density of each random step under the walk that drew it."""
        return self.record.log_prob()

    @property
    def counted(self) -> Tensor:
        """The samples whose reward did not fail."""
        counts = torch.ones_like(self.reward, dtype=torch.bool) if self.counts is None else self.counts
        return counts.nonzero()[:, 0]

    def figures(self) -> dict[str, Any]:
        """What every method logs of it: the mean reward, and the share that failed."""
        counted = self.counted
        return {"reward": self.reward[counted].mean(), "failed": 1 - len(counted) / len(self.reward)}


@torch.no_grad()
def recorded(
    walk: Walk,
    start: Tree,
    reward: Reward,
    cond: Any = None,
    seeds: Any = None,
    group: Any = None,
    plug: bool = False,
    levels: Levels | None = None,
) -> Recorded:
    """Walks from `start` and keeps what happened; with `plug` the estimates on the way are rewarded as well."""
    record = Record()
    end = replace(walk, hooks=[*walk.hooks, record]).run(start, cond, levels=levels, seeds=seeds)
    worth = rewarded(reward, end.x, cond)
    plugged = None
    if plug:
        estimates = [record.steps[i].estimate for i in record.random_steps]
        promised = [rewarded(reward, estimate.x, cond) for estimate in estimates if estimate is not None]
        plugged = torch.stack([one.value for one in promised])
        for one in promised:
            worth = worth.where(one.counts)
    return Recorded(record, worth.value, worth.entries, plugged, group, worth.counts)


def replayed(walk: Walk, record: Record, denoiser: Any = None, *, average: bool = False) -> Tensor:
    """`[K, B]`: the log-density of each recorded random step under this denoiser, summed over the entries of an event.

    `average=True` takes their mean, as some released code does: its exponential is no ratio of densities, so that what
    is weighed with it is tempered by the number of entries.
    """
    return record.log_prob(walk.replay(record, denoiser), average=average)


Shared = int | Callable[[Tick], int]
"""How many of a walk's first steps: a number, or another one at each moment of training."""


def at(number: Shared, tick: Tick) -> int:
    """The number at this moment."""
    return number if isinstance(number, int) else number(tick)


@dataclass(frozen=True)
class Growing:
    """A number that moves evenly from `first` to `last` in so many steps of training, and stays there."""

    first: int
    last: int
    steps: int

    def __call__(self, tick: Tick) -> int:
        """At this moment."""
        return round(self.first + (self.last - self.first) * min(tick.step / max(self.steps, 1), 1.0))


class Begun(NamedTuple):
    """What walks begin with: each its start, condition and seed; their groups, and the levels where not the grid's."""

    start: Tree
    cond: Any
    seeds: Tensor
    group: Tensor | None
    levels: Levels | None


class OwnWalks:
    """A source of batches: walks of the model as it is at that moment.

    A batch is a function of the trainer's seed and step and of the weights, so that nothing has to be saved.

    Args:
        walk: what is trained, with a random solver.
        shape: of a sample.
        batch: walks in a batch.
        reward: of clean samples.
        conditions: `conditions(count, noise) -> cond`, what to walk for; `each` walks share one. The noise is another
            one at every step: draw from it at any step and slot.
        each: walks for one condition, which are one group.
        hold: `hold(cond) -> hooks`, what holds in walks for these conditions: known entries, say. The network then
            hears the conditions by these alone.
        shared: how many first steps the walks of a group have in common: 0 is their start, None not even that. What is
            shared is not recorded: a group then tells apart what its walks did from there on.
        plug: whether to reward the estimates on the way: for a potential other than "terminal".
        by: another walk to draw with: another denoiser, more noise. By default the walk itself.
        starts: `starts(cond, noise) -> x`, where walks begin, at their first level: a sample that is to be edited, say,
            noised so far. The noise is not that of the walk's steps. By default pure noise.
    """

    follows_weights = True
    """A thread that draws ahead would meet weights that are being changed."""

    def __init__(
        self,
        walk: Walk,
        shape: Sequence[int],
        batch: int,
        reward: Reward,
        *,
        conditions: Callable[[int, Noise], Any] | None = None,
        each: int = 1,
        hold: Callable[[Any], Sequence[Hook]] | None = None,
        shared: Shared | None = None,
        plug: bool = False,
        by: Walk | None = None,
        starts: Callable[[Any, Noise], Tree] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if batch % each:
            raise ValueError(f"OwnWalks: {each} walks for each condition do not divide a batch of {batch}")
        self.walk, self.shape, self.batch, self.reward = walk if by is None else by, tuple(shape), batch, reward
        self.conditions, self.each, self.hold, self.dtype = conditions, each, hold, dtype
        self.shared, self.plug, self.starts = shared, plug, starts

    def next(self, tick: Tick) -> Recorded:
        """Fresh walks."""
        begun = self.begin(tick)
        reward = partial(_told, self.reward, begun.cond)
        walk, heard = self.held(begun.cond), self.heard(begun.cond)
        return recorded(walk, begun.start, reward, heard, begun.seeds, begun.group, self.plug, begun.levels)

    def begin(self, tick: Tick) -> Begun:
        """All that walks begin with."""
        count = self.batch // self.each
        group = torch.arange(count, device=tick.device).repeat_interleave(self.each)
        told = Noise.of(tick.seeds(count, CONDITION_SLOT), count, tick.device)
        cond = None if self.conditions is None else self.conditions(count, told)
        first = 0 if self.shared is None else at(self.shared, tick)
        start, levels = self._start(tick, count, cond, first)
        if self.shared is not None:
            start = take(start, group)
        grouped = group if self.each > 1 else None
        return Begun(start, take_cond(cond, group), tick.seeds(self.batch), grouped, levels)

    def held(self, cond: Any) -> Walk:
        """The walk, with what holds for these conditions."""
        return self.walk if self.hold is None else replace(self.walk, hooks=[*self.walk.hooks, *self.hold(cond)])

    def heard(self, cond: Any) -> Any:
        """What of these conditions the network is told: nothing where they hold by hooks."""
        return cond if self.hold is None else None

    def _start(self, tick: Tick, count: int, cond: Any, first: int) -> tuple[Tree, Levels | None]:
        """Where what is recorded begins: pure noise, or where a walk for each group has come to after `first` steps."""
        alone = self.shared is None
        rows = self.batch if alone else count
        every = 1 if alone else self.each
        if self.starts is None:
            seeds = tick.seeds(self.batch)[::every]
            start = _pure(self.walk, (rows, *self.shape), seeds, self.dtype, tick.device)
        else:
            whose = torch.arange(count, device=tick.device).repeat_interleave(rows // count)
            own = Noise.of(tick.seeds(self.batch, START_SLOT)[::every], rows, tick.device)
            start = self.starts(take_cond(cond, whose), own)
        if first == 0:
            return start, None
        levels = self.walk.grid.levels(self.walk.path)
        if not 0 < first < len(levels.t) - 1:
            raise ValueError(f"OwnWalks: a walk of {len(levels.t) - 1} steps cannot share {first} and still have one")
        head, tail = (Levels(t, levels.rise) for t in (levels.t[: first + 1], levels.t[first:]))
        with torch.no_grad():
            state = self.held(cond).run(start, self.heard(cond), levels=head, seeds=tick.seeds(count, SHARED_SLOT))
        return state.x, tail

    def state(self) -> dict[str, Any]:
        """Nothing: see the class."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing."""


@runtime_checkable
class Walks(Source, Protocol):
    """A source of recorded walks: it says which walk draws them."""

    walk: Walk


class Kept:
    """Walks that are learned from more than once: the newest batch `times` times, or, where more than one is kept, any
    of the latest `keep` batches, drawn evenly.

    What is kept is saved with the run, walk by walk: neither the rewards nor the weights of that moment are asked
    again.

    Args:
        source: of fresh walks, asked at every `times`-th step.
        times: steps to a fresh batch.
        keep: how many batches are remembered.
        parts: in how many parts, one a step, a batch is gone through, in another order each time: `times = 5 * parts`
            goes through it five times. What does not fill the last part is left out.
        spent: asked before each step; True asks for fresh walks at once.
    """

    follows_weights = True

    def __init__(
        self,
        source: Walks,
        times: int = 2,
        keep: int = 1,
        *,
        parts: int = 1,
        spent: Callable[[], bool] | None = None,
    ) -> None:
        if times < 1 or keep < 1 or parts < 1:
            raise ValueError(f"Kept: times, keep and parts are at least 1, got {times}, {keep} and {parts}")
        self.source, self.times, self.keep, self.parts, self.spent = source, times, keep, parts, spent
        self.served, self.begun, self.batches = 0, 0, list[Recorded]()

    @property
    def walk(self) -> Walk:
        """That draws."""
        return self.source.walk

    def next(self, tick: Tick) -> Recorded:
        """A fresh batch when its turn has come, and then one of those that are kept, or a part of it."""
        if self.served % self.times == 0 or (self.spent is not None and self.spent()):
            self.batches = [*self.batches, self.source.next(tick)][-self.keep :]
            self.served, self.begun = 0, tick.step
        place, self.served = self.served, self.served + 1
        u = float(tick.noise(1).uniform((1,), tick.step, KEPT_SLOT))
        batch = self.batches[int(u * len(self.batches))]
        return batch if self.parts == 1 else self._part(batch, place, tick)

    def _part(self, batch: Recorded, place: int, tick: Tick) -> Recorded:
        """The one whose turn it is in the order of this time."""
        time, part = divmod(place, self.parts)
        count = len(batch.reward)
        if count < self.parts:
            raise ValueError(f"Kept: {count} walks cannot be gone through in {self.parts} parts")
        order = tick.noise(1).uniform((1, count), self.begun + time, PART_SLOT)[0].argsort(stable=True)
        size = count // self.parts
        return batch.take(order[part * size : (part + 1) * size])

    def state(self) -> dict[str, Any]:
        """The batches that are kept, as tensors."""
        kept = [saved(batch) for batch in self.batches]
        return {"served": self.served, "begun": self.begun, "batches": kept, "source": self.source.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.served, self.begun = state["served"], state.get("begun", 0)
        self.batches = [restored(self.walk, batch) for batch in state["batches"]]
        self.source.load(state["source"])


@dataclass(eq=False)
class Retraced(Hook):
    """Makes a walk go where another one went."""

    x: list[Tree]
    draws: list[Tree]
    kernels: Sequence[Kernel]
    notes: Mapping[str, Tree]
    place: Place = field(default="record", init=False)

    def begin(self, state: State) -> State:
        """With what hooks had noted there: known entries, say."""
        state.notes |= self.notes
        return state

    def after(self, state: State, step: Step) -> State:
        """There."""
        i = state.step
        state.x, step.drawn, step.kernel = self.x[i], self.draws[i - 1], self.kernels[i - 1]
        return state


def saved(batch: Recorded) -> dict[str, Any]:
    """Recorded walks as tensors, numbers and lists of them."""
    record, first = batch.record, batch.record.states[0]
    if any(state.parent is not None for state in record.states):
        raise ValueError("Kept: walks that were branched on the way cannot be kept; branch with OwnWalks(shared=...)")
    told = first.given
    cond = {"fields": told.fields, "keep": told.keep} if isinstance(told, Cond) else {"plain": told}
    return {
        "levels": [*(state.t for state in record.states), record.end],
        "rise": first.walk.grid.levels(first.walk.path).rise,
        "x": record.x,
        "draws": [step.drawn for step in record.steps],
        "kernels": [_plain(step.kernel) for step in record.steps],
        "key": first.noise.key,
        "notes": first.notes,
        "cond": cond,
        "worth": {
            name: value for name in (*BY_SAMPLE, "entries") if (value := getattr(batch, name)) is not None
        },
    }  # fmt: skip


@torch.no_grad()
def restored(walk: Walk, plain: Mapping[str, Any]) -> Recorded:
    """What `saved` was given: the walk goes there again."""
    record, told = Record(), plain["cond"]
    cond = Cond(told["fields"], told["keep"]) if "fields" in told else told["plain"]
    levels: list[Level] = plain["levels"]
    rows = torch.cat(cast(Any, levels)) if isinstance(levels[0], Tensor) else cast(Any, levels)
    kernels = [_kernel(k) for k in plain["kernels"]]
    again = replace(walk, hooks=[*walk.hooks, Retraced(plain["x"], plain["draws"], kernels, plain["notes"]), record])
    again.run(plain["x"][0], cond, levels=Levels(rows, plain["rise"]), seeds=Noise(plain["key"]))
    return Recorded(record, **plain["worth"])


def _told(reward: Reward, cond: Any, x: Tree, _: Any) -> Any:
    """A reward that is told the conditions, whether the network hears them or not."""
    return reward(x, cond)


def _plain(kernel: Kernel) -> dict[str, Any]:
    match kernel:
        case Gaussian(mean, std):
            return {"mean": mean, "std": std}
        case Point(mean):
            return {"mean": mean}
        case Categorical(logits):
            return {"logits": logits}
        case _:
            raise ValueError(f"Kept: no way to save a {type(kernel).__name__}")


def _kernel(plain: Mapping[str, Any]) -> Kernel:
    """What `_plain` was given."""
    if "logits" in plain:
        return Categorical(plain["logits"])
    return Gaussian(plain["mean"], plain["std"]) if "std" in plain else Point(plain["mean"])


def _pure(walk: Walk, shape: Sequence[int], seeds: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Pure noise at the level where the walk begins."""
    path = walk.path
    first = walk.grid.levels(path).t[0]
    z = Noise.of(seeds, shape[0], device).normal(shape, 0, START_SLOT, dtype)
    return z * torch.as_tensor(path.sigma(first)).to(z)
