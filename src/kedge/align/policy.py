"""Policy gradients of walks: each random step is an action, and a walk that was worth more is made more likely."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from kedge.align.advantages import Clamp, Piece, Relative, Standard, advantages
from kedge.align.method import Method
from kedge.align.walks import Recorded, Shared, at
from kedge.cond import take_cond
from kedge.rl.objectives import clipped, share_clipped
from kedge.slots import RECALL_SLOT
from kedge.train import Tick
from kedge.tree import Tree, first_leaf, leaves, sum_event, tree_map
from kedge.walk import State, Walk
from kedge.walk.hooks import Record

DDPO: tuple[Piece, ...] = (Relative(), Standard(), Clamp(5.0))
"""Centred and scaled within the condition, and held within five deviations."""


@dataclass(frozen=True)
class Entries:
    """Credit entry by entry: the reward of an entry moves the density of that entry alone, blurred over so many
    neighbours along every axis of a sample.

    "Pixel-wise RL on diffusion models". Exact where entries are denoised each by itself and each has a reward of its
    own; elsewhere it leaves out what an entry does for the others, for a gradient with less noise.
    """

    blur: float = 0.0


StepValue = Callable[..., Tensor]
"""`value(x_t, t)`, or `value(x_t, t, cond)` where there is a condition, `[B]`: what a walk from there is expected to be
worth. `t` is a tensor with a level for each sample."""

Credit = Literal["walk"] | Entries
"""Whose reward moves whose density: that of the walk all of it, or each entry its own."""


@dataclass(frozen=True)
class Widening:
    """A clip that is narrower the noisier a step is, for what is done there moves all the rest: of n steps that learn,
    the i-th has

        c_i = first + (last - first) (e^{rate i / (n - 1)} - 1) / (e^rate - 1).
    """

    first: float = 1e-3
    last: float = 1e-2
    rate: float = 3.0

    def at(self, i: int, n: int) -> float:
        """Of the i-th of n steps, the noisiest first."""
        share = i / (n - 1) if n > 1 else 1.0
        return self.first + (self.last - self.first) * math.expm1(self.rate * share) / math.expm1(self.rate)


Clip = float | tuple[float, float] | Widening
"""How far a ratio may leave 1: as far at every step, below and above, or by the step."""


class PolicyGradient(Method):
    """Raises the reward of a walk: `-E sum_k min(r_k A, clip(r_k) A)` over its random steps, with r the ratio of a
    step's density to that under the weights that drew it.

    Black et al., "Training diffusion models with reinforcement learning", ICLR 2024 (DDPO, importance sampling).
    Without `clip`, `-A log p` (DDPO, score function). Nothing here says how far a model may go from what it was:
    `penalty` does, or a short training, or `VMPO` instead.

    Args:
        walk: what is aligned: its denoiser's parameters move. Its solver must be random.
        pieces: from rewards to advantages, one after another: see `kedge.align.advantages`.
        clip: how far a ratio may leave 1 before its walk stops pushing, see `Clip`; None: ratios are not used, and
            walks must be the model's own, of this moment.
        last: only so many of a walk's last steps learn, or a number that moves with training; None: all.
        discount: a step counts so much less for every step that lies between it and the end of the walk.
        penalty: times the divergence from the reference at each visited state, added to the loss.
        credit: whose reward moves whose density: see `Credit`.
        value: see `StepValue`: taken off what the pieces say, step by step. It is not moved here: a `WalkValue` beside
            learns it.
        average: the mean of log-densities over an event's entries instead of their sum, as released code does: ratios
            are then nearer to 1, and are none.
        within: log-densities of entries are held within these bounds, as released code does: an entry beyond has no
            gradient.
        counted: of the log-densities of entries those that count: of an action chunk those that were acted on, say.
        recall: times minus the log-density, of the steps that learn, of walks that the reference makes from where these
            walks began, added to the loss: cloning what was there before.
        stop: once a batch has moved by more than this (the mean of `r - 1 - log r`), `far` is True: then
            `Kept(..., spent=method.far)` turns to fresh walks.
    """

    drift: Tensor

    def __init__(
        self,
        walk: Walk,
        pieces: Sequence[Piece] = DDPO,
        *,
        clip: Clip | None = 0.2,
        last: Shared | None = None,
        discount: float = 1.0,
        penalty: float = 0.0,
        credit: Credit = "walk",
        value: StepValue | None = None,
        average: bool = False,
        within: tuple[float, float] | None = None,
        counted: Callable[[Tensor], Tensor] | None = None,
        recall: float = 0.0,
        stop: float | None = None,
    ) -> None:
        super().__init__(walk)
        if value is not None and credit != "walk":
            raise ValueError("PolicyGradient: a value is of a walk, not of an entry: leave credit as it is")
        if walk.solver.density == "none":
            raise ValueError(f"PolicyGradient: {walk.solver} is deterministic; use DDPM() or DDIM(eta=1)")
        if last is not None and walk.solver.density == "walk":
            raise ValueError(f"PolicyGradient: {walk.solver} remembers earlier steps and learns of all")
        if not 0 < discount <= 1:
            raise ValueError(f"PolicyGradient: the discount lies in (0, 1], got {discount}")
        self.pieces = tuple(pieces)
        self.clip, self.last, self.discount = clip, last, discount
        self.penalty, self.credit, self.average = penalty, credit, average
        self.within, self.counted, self.recall, self.stop = within, counted, recall, stop
        if stop is not None:  # what a resumed run goes on from
            self.register_buffer("drift", torch.zeros(()))
        self._value = [value]  # in a list: its weights are not this module's

    def far(self) -> bool:
        """Whether the latest batch had moved by more than `stop`."""
        return self.stop is not None and float(self.drift) > self.stop

    def forward(self, batch: Recorded, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The loss of each walk `[B]`, and what to log."""
        record, steps = batch.record, self._steps(batch.record, tick)
        kernels = self.walk.replay(record, self.denoiser, steps)
        new, old = (self._heard(record.log_prob_entries(these, steps)) for these in (kernels, None))
        terms, info = self._push(new, old, self._advantages(batch, steps))
        weight = self.discount ** torch.arange(len(terms) - 1, -1, -1, device=terms.device, dtype=terms.dtype)
        loss = (weight[:, None] * terms).sum(0)
        info |= batch.figures()
        if self.penalty:
            with torch.no_grad():
                still = self.walk.replay(record, self.reference.module, steps)
            divergence = record.divergence(kernels, still, steps, average=self.average).sum(0)
            loss, info = loss + self.penalty * divergence, info | {"divergence": divergence.detach().mean()}
        if self.recall:
            forgotten = self._forgotten(record, tick)
            loss, info = loss + self.recall * forgotten, info | {"forgotten": forgotten.detach().mean()}
        return loss, info

    def _heard(self, entries: list[Tree]) -> list[Tree]:
        """Log-densities of entries as the loss takes them: those that count, held within bounds."""
        return [tree_map(self._held, one) for one in entries]

    def _held(self, value: Tensor) -> Tensor:
        value = value if self.counted is None else self.counted(value)
        return value if self.within is None else value.clamp(*self.within)

    def _forgotten(self, record: Record, tick: Tick) -> Tensor:
        """`[B]`: minus the log-density of the reference's own walks from the same starts, for the same conditions."""
        first, again = record.states[0], Record()
        with torch.no_grad():
            walk = replace(self.walk, denoiser=self.reference.module, hooks=[*self.walk.hooks, again])
            seeds = tick.seeds(first.batch, RECALL_SLOT)
            walk.run(record.x[0], first.given, levels=record.levels, seeds=seeds)
        steps = self._steps(again, tick)
        entries = self._heard(again.log_prob_entries(self.walk.replay(again, self.denoiser, steps), steps))
        return -torch.stack([sum_event(one, self.average) for one in entries]).sum(0)

    def _steps(self, record: Record, tick: Tick) -> list[int] | None:
        """Which steps learn; None: all random ones of a walk that can only be replayed as a whole."""
        if self.walk.solver.density == "walk":
            return None
        random, n = record.random_steps, len(record.steps)
        last = n if self.last is None else at(self.last, tick)
        chosen = [i for i in random if i >= n - last]
        if not chosen:
            raise ValueError(
                f"PolicyGradient: none of the last {last} of {n} steps is random; the last one only is where a hook "
                "makes it so"
            )
        return chosen

    def _advantages(self, batch: Recorded, steps: list[int] | None) -> list[Tree]:
        """One for each step that learns."""
        chosen = batch.record.random_steps if steps is None else steps
        if isinstance(self.credit, Entries):
            return [_of_entries(self.pieces, batch, self.credit.blur)] * len(chosen)
        A, (value,) = advantages(self.pieces, batch), self._value
        if value is None:
            return [A] * len(chosen)
        with torch.no_grad():
            V = values_at(value, [batch.record.states[i] for i in chosen])
            each = [A - one for one in V]
        return [a if batch.counts is None else torch.where(batch.counts, a, 0.0) for a in each]

    def _push(self, new: Sequence[Tree], old: Sequence[Tree], A: Sequence[Tree]) -> tuple[Tensor, dict[str, Any]]:
        """`[K, B]`: what each step adds to the loss of its walk, and figures."""
        if self.credit == "walk":
            new, old = ([sum_event(one, self.average) for one in each] for each in (new, old))
        if self.clip is None:
            plain = [tree_map(lambda n, a: -a * n, n, a) for n, a in zip(new, A, strict=True)]
            return torch.stack([sum_event(one, self.average) for one in plain]), {}
        ratios = [tree_map(lambda n, o: n - o, n, o) for n, o in zip(new, old, strict=True)]
        clips = [self.clip.at(i, len(new)) if isinstance(self.clip, Widening) else self.clip for i in range(len(new))]
        each = list(zip(ratios, A, clips, strict=True))
        pushed = (tree_map(lambda r, a, c=c: clipped(r, a, c), ratio, of) for ratio, of, c in each)
        terms = [sum_event(one, self.average) for one in pushed]
        with torch.no_grad():
            parts = [(r, a, c) for ratio, of, c in each for r, a in zip(leaves(ratio), leaves(of), strict=True)]
            cut = torch.stack([share_clipped(*part) for part in parts]).mean()
            moved = -torch.stack([sum_event(ratio, self.average) for ratio in ratios]).sum(0).mean()
            if self.stop is not None:
                self.drift.copy_(torch.stack([(torch.expm1(r) - r).mean() for r, _, _ in parts]).mean())
        return torch.stack(terms), {"clipped": cut, "moved": moved}


def values_at(value: StepValue, states: Sequence[State]) -> Tensor:
    """`[K, B]`: what walks from these states are expected to be worth, asked all at once."""
    x = tree_map(lambda *leaf: torch.cat(leaf), *(state.x for state in states))
    B = states[0].batch
    t = torch.cat([_level(state) for state in states])
    if states[0].given is None:
        return value(x, t).reshape(-1, B)
    rows = torch.arange(B, device=t.device)
    if all(state.given is states[0].given for state in states):
        return value(x, t, take_cond(states[0].given, rows.repeat(len(states)))).reshape(-1, B)
    return torch.stack([value(state.x, _level(state), state.given) for state in states])


def _level(state: State) -> Tensor:
    """`[B, ...]`: of each sample, where it is not of each entry."""
    x = first_leaf(state.x)
    t = torch.as_tensor(state.t, dtype=x.dtype, device=x.device)
    return t.expand(len(x), *t.shape[1:])


def _of_entries(pieces: Sequence[Piece], batch: Recorded, blur: float) -> Tree:
    """The advantage of each entry: the pieces on the rewards of that entry, over the batch."""
    if batch.entries is None:
        raise ValueError("PolicyGradient: credit by entries wants a reward of each entry, in the shape of a sample")

    def each(reward: Tensor) -> Tensor:
        value = advantages(pieces, batch, reward.flatten(1).T)
        return blurred(value.T.reshape(reward.shape), blur)

    return tree_map(each, batch.entries)


def blurred(values: Tensor, scale: float) -> Tensor:
    """`sum_j e^{-|i - j|^2 / (2 scale^2)} v_j` over all axes but the first: the values themselves at 0, their sum for
    every entry at infinity.
    """
    for axis in range(1, values.ndim) if scale > 0 else ():
        place = torch.arange(values.shape[axis], device=values.device, dtype=values.dtype)
        weight = torch.exp(-((place[:, None] - place) ** 2) / (2 * scale**2))
        values = (values.movedim(axis, -1) @ weight).movedim(-1, axis)
    return values
