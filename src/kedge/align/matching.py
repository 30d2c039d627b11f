"""Matching: what did better than expected is denoised better. No density of any walk is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from kedge.align.advantages import Piece, advantages
from kedge.align.method import Method
from kedge.align.policy import DDPO
from kedge.align.walks import Recorded, Walks
from kedge.cond import take_cond
from kedge.denoise import Estimate, as_estimator
from kedge.fit import Draw, Proposal, Space, denoising_error, per_clean
from kedge.fit.proposals import Uniform
from kedge.rl.objectives import clipped, share_clipped
from kedge.slots import END_LEVEL_SLOT, END_Z_SLOT
from kedge.train import Shadow, Tick
from kedge.tree import Tree, sum_event, take, tree_map
from kedge.walk import Walk
from kedge.walk.hooks.pin import MASK

Ratio = Literal["draw", "sample"]
"""Of what a ratio is taken: of each draw by itself, or of a sample, over the mean of its draws."""


class Asked(NamedTuple):
    """The ends of walks, each at `n` draws: `n B` rows, the first draw of every walk first."""

    x: Tree
    draw: Draw
    cond: Any
    known: Tree | None


class Matching(Method):
    """Raises the reward of what a walk ends in: `-E min(r A, clip(r) A)` with `r = e^{l - l_old}`, where the
    log-likelihood of a clean sample x is stood in for by minus its denoising error,

        l(x) = -scale |x_hat(alpha x + sigma z, t) - x|^2   at draws (t, z) that old and new weights share.

    "Advantage weighted matching: aligning RL with pretraining in diffusion models" (AWM: a ratio for each draw) and
    "Flow matching policy gradients" (FPO: the errors of a sample are averaged first). How a sample was drawn does not
    matter: any solver will do. With `space="eps"`, a proposal that is even in log-SNR over a range R, `scale = R / 2`
    and `average=False`, the mean of l is the evidence lower bound up to a constant.

    The draws of a walk follow from its noise, so that a walk that is served again is denoised at the same ones.

    Args:
        walk: what is aligned: its denoiser's parameters move.
        pieces: from rewards to advantages, one after another: see `kedge.align.advantages`.
        clip: how far a ratio may leave 1 before its sample stops pushing, for walks from `Measured`. None: ratios are
            not used, and walks must be the model's own, of this moment.
        ratio: see `Ratio`.
        draws: how often each sample is denoised, at levels one in each of so many equally likely bins.
        proposal: the law of the levels; by default even in time.
        space: in which quantity the error is measured.
        scale: times the error.
        average: the mean of the error over a sample's entries, as released code does, or its sum.
        penalty: times the squared distance from the reference's estimates, added to the loss.
        trust: the same, from those of a moving average of the weights.
        memory: how much of that average stays at each update.
    """

    def __init__(
        self,
        walk: Walk,
        pieces: Sequence[Piece] = DDPO,
        *,
        clip: float | tuple[float, float] | None = None,
        ratio: Ratio = "draw",
        draws: int = 4,
        proposal: Proposal | None = None,
        space: Space = "velocity",
        scale: float = 1.0,
        average: bool = True,
        penalty: float = 0.0,
        trust: float = 0.0,
        memory: float = 0.9,
    ) -> None:
        super().__init__(walk)
        if draws < 1:
            raise ValueError(f"Matching: at least one draw a sample, got {draws}")
        self.pieces = tuple(pieces)
        self.clip, self.draws, self.scale, self.average = clip, draws, scale, average
        self.ratio: Ratio = ratio
        self.space: Space = space
        self.proposal = Uniform() if proposal is None else proposal
        self.penalty, self.trust = penalty, trust
        self.recent = Shadow(decay=memory, warmup=False).follow(walk.denoiser) if trust else None

    def copies(self) -> tuple[Shadow, ...]:
        """The reference, and the moving average where it is asked for."""
        return (self.reference,) if self.recent is None else (self.reference, self.recent)

    def forward(self, batch: Recorded, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The loss of each sample `[B]`, and what to log."""
        asked = self._asked(batch)
        errors, estimate = self._errors(self.denoiser, asked)
        loss, info = self._push(errors, batch)
        info |= batch.figures() | {"error": errors.detach().mean()}
        for name, weight, shadow in (("divergence", self.penalty, self.reference), ("moved", self.trust, self.recent)):
            if weight and shadow is not None:
                apart = self._apart(asked, estimate, shadow.module)
                loss, info = loss + weight * apart, info | {name: apart.detach().mean()}
        return loss, info

    def errors(self, batch: Recorded, denoiser: Any = None) -> Tensor:
        """`[n, B]`: of this denoiser (by default the walk's own) at the draws of these walks, not yet scaled."""
        return self._errors(self.denoiser if denoiser is None else denoiser, self._asked(batch))[0]

    def _asked(self, batch: Recorded) -> Asked:
        """The ends, at draws that follow from the walks' noise and nothing else."""
        last, n = batch.record.states[-1], self.draws
        copies = torch.arange(len(batch.reward), device=batch.reward.device).repeat(n)
        x, noise, path = take(batch.record.x[-1], copies), last.noise.take(copies), self.walk.path
        bins = torch.arange(n, device=copies.device).repeat_interleave(len(batch.reward))
        u = (bins + noise.uniform((len(copies),), 0, END_LEVEL_SLOT)) / n
        t = self.proposal.times(path, u).clamp(path.t_min, path.t_max)
        known = last.notes.get(MASK)
        known = None if known is None else take(known, copies)
        return Asked(x, Draw(t, path.noise(x, noise, 0, END_Z_SLOT)), take_cond(last.given, copies), known)

    def _errors(self, denoiser: Any, asked: Asked) -> tuple[Tensor, Estimate]:
        """`[n, B]`, and the estimate behind them."""
        x, draw, cond, known = asked
        cond = as_estimator(denoiser).prepare(cond)
        error, estimate = denoising_error(denoiser, x, draw, cond, known=known, space=self.space)
        return sum_event(error, self.average).reshape(self.draws, -1), estimate

    def _apart(self, asked: Asked, estimate: Estimate, other: Any) -> Tensor:
        """`[B]`: the squared distance of the estimates from another's, in the space of the error."""
        with torch.no_grad():
            _, still = self._errors(other, asked)
        error = self.walk.path.error(estimate.x, still.x)
        if asked.known is not None:
            error = tree_map(lambda e, known: e.masked_fill(known, 0.0), error, asked.known)
        error = sum_event(error, self.average)
        factor = per_clean(as_estimator(self.denoiser), asked.draw.t, self.space).to(error)
        return (factor * error).reshape(self.draws, -1).mean(0)

    def _push(self, errors: Tensor, batch: Recorded) -> tuple[Tensor, dict[str, Any]]:
        """`[B]`, and figures."""
        A = advantages(self.pieces, batch)
        if self.clip is None:
            return (A * self.scale * errors).mean(0), {}
        if batch.errors is None:
            raise ValueError("Matching: a ratio wants the errors of the weights that drew: Measured(OwnWalks(...), it)")
        log_ratio = self.scale * (batch.errors - errors)
        if self.ratio == "sample":
            log_ratio = log_ratio.mean(0, keepdim=True)
        return clipped(log_ratio, A, self.clip).mean(0), {"clipped": share_clipped(log_ratio.detach(), A, self.clip)}


class Measured:
    """Walks with their denoising errors under the weights that drew them, which the ratios of a `Matching` are to.

    `Kept(Measured(OwnWalks(...), method), times=4)` keeps the errors with the walks.
    """

    follows_weights = True

    def __init__(self, source: Walks, method: Matching) -> None:
        self.source, self.method, self.walk = source, method, source.walk

    def next(self, tick: Tick) -> Recorded:
        """Fresh walks, measured."""
        batch = self.source.next(tick)
        with torch.no_grad():
            return replace(batch, errors=self.method.errors(batch, self.walk.denoiser))

    def state(self) -> dict[str, Any]:
        """The source's."""
        return self.source.state()

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.source.load(state)
