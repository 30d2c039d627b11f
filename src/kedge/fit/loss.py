"""The loss that a denoiser is trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from kedge.cond import Cond
from kedge.denoise import as_estimator
from kedge.fit.draw import Proposal
from kedge.fit.error import denoising_error, level_error
from kedge.fit.proposals.log_normal import LogNormal
from kedge.fit.weightings.uniform import Uniform
from kedge.fit.weightings.weighting import Weighting
from kedge.train import Batch, OptimiserSpec, Part, Tick
from kedge.tree import Tree, first_leaf


class Example(NamedTuple):
    """What a batch means to a denoiser."""

    x: Tree
    cond: Cond | None = None
    known: Tree | None = None


def unpack(batch: Batch) -> Example:
    """A tensor is x. A dictionary holds `x`, perhaps `known` (True where an entry is pinned), and fields to hear."""
    if not isinstance(batch, Mapping):
        return Example(batch)
    if "x" not in batch:
        raise ValueError(f'a batch of data holds "x" (and "known", and fields to condition on), got {sorted(batch)}')
    fields = {name: value for name, value in batch.items() if name not in ("x", "known")}
    return Example(batch["x"], Cond.of(**fields) if fields else None, batch.get("known"))


class DenoisingLoss(nn.Module):
    """`weight(log_snr) L + penalty(log_snr)`, with L the squared error of the estimate at a random level and noise.

    It is the module that is trained: it holds the denoiser and the weighting, so that both are in the checkpoint.

    Args:
        denoiser: what is trained.
        proposal: the law of the levels; by default log-normal noise scales.
        weighting: what an error counts at each level; by default that of v.
        known: True where entries are pinned in every sample; a batch may have a mask of its own.
        drop: the probability with which each field of the condition is dropped, for classifier-free guidance.
        read: what a batch means.
        also: another loss, of the clean estimates, the batch and the log-SNR, `[B]`, which is added; it is trained
            along.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        proposal: Proposal | None = None,
        weighting: Weighting | None = None,
        *,
        known: Tree | None = None,
        drop: Mapping[str, float] | None = None,
        read: Callable[[Batch], Example] = unpack,
        also: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.path = as_estimator(denoiser).path
        self.proposal = LogNormal() if proposal is None else proposal
        sigma_data = getattr(denoiser, "sigma_data", None) or 1.0
        self.weighting = Uniform(of="v", sigma_data=sigma_data) if weighting is None else weighting
        self.known, self.drop, self.read = known, dict(drop or {}), read
        self.also = also
        if not isinstance(cast(object, self.weighting), Weighting):
            raise TypeError(f"a weighting is an instance of a kedge.fit.Weighting, not {weighting!r}")
        u = (torch.arange(1024, dtype=torch.float64) + 0.5) / 1024
        t = self.proposal.times(self.path, u).clamp(self.path.t_min, self.path.t_max)
        self.weighting.cover(self.path.log_snr(t))

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps: this module, on this loss. Options are those of `kedge.train.Part`."""
        options.setdefault("compiles", (getattr(self.denoiser, "net", self.denoiser),))
        options.setdefault("shared", True)
        return Part(self, self, optimiser, **options)

    def forward(self, batch: Batch, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The loss of each sample `[B]`, and the plain and the weighted error to log."""
        return self.of(self.denoiser, batch, tick, learns=self.training)

    def of(self, denoiser: Any, batch: Batch, tick: Tick, *, learns: bool = False) -> tuple[Tensor, dict[str, Any]]:
        """The same of another denoiser on the same path, at the same levels and noise; the weighting hears of it if it
        `learns`.
        """
        x, cond, known = self.read(batch)
        noise = tick.noise(first_leaf(x).shape[0])
        if cond is not None and self.drop:
            cond = cond.drop(self.drop, noise, tick.step)
        draw = self.proposal.draw(self.path, x, noise, tick.step)
        known = self.known if known is None else known
        error, estimate = denoising_error(denoiser, x, draw, cond, known=known)
        L = level_error(error, draw.t, known)
        # within the path's times: a pinned entry at the clean level has an infinite log-SNR, and no error to weigh
        log_snr = self.path.log_snr(draw.t.clamp(self.path.t_min, self.path.t_max))
        weighted = self.weighting(log_snr).to(L) * L
        loss = weighted + self.weighting.penalty(log_snr).to(L)
        if draw.weight is not None:
            loss = loss * draw.weight.to(L)
        if learns:
            self.weighting.update(*tick.whole(log_snr, L))
        info = {"error": L.detach().mean(), "weighted": weighted.detach().mean()}
        loss = loss.flatten(1).mean(1) if loss.ndim > 1 else loss
        if self.also is None:
            return loss, info
        other = self.also(estimate.x, batch, log_snr)
        return loss + other, info | {"also": other.detach().mean()}
