"""A sampler for a density that is known up to a factor, learned by forward-KL score matching from its own samples.

The ideal loss is `E_t E_{x_t ~ p_t} |x_theta(x_t, t) - E[x | x_t]|^2`, with `p_t` the noised target: it counts every
mode as much as the target does. There are no samples of the target. There are samples of the model, B, and so

    x ~ B,  x_t = alpha x + sigma z,      w = p_t(x_t) / p_{B,t}(x_t),      loss = sum_i w_i |...|_i^2 / sum_i w_i

where both densities and the target's `E[x | x_t]` are estimated: that of the buffer is a mixture of Gaussians around
its samples, those of the target are means over draws of x around x_t / alpha. Without the weights (as in Akhound-Sadegh
et al., "Iterated denoising energy matching", 2024) what the model does not sample it does not learn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kedge.align.anneal import LogDensity
from kedge.denoise import as_estimator
from kedge.fit import Proposal, Weighting, denoising_error, level_error
from kedge.fit.proposals import LogNormal
from kedge.fit.weightings import Uniform
from kedge.noise import Noise
from kedge.particles import effective, normalised, tempered
from kedge.paths.gaussian import GaussianPath
from kedge.slots import AROUND_SLOT, PICK_SLOT
from kedge.train import OptimiserSpec, Part, Tick
from kedge.tree import first_leaf, lead
from kedge.walk import Walk


@dataclass(frozen=True, eq=False)
class Replayed:
    """Some of the buffer, x `[B, *event]`, and all of it, `[M, *event]`."""

    x: Tensor
    buffer: Tensor


class OwnSamples:
    """A source of batches: a buffer of the model's own samples, to which it adds as training goes.

    Args:
        walk: what samples: the walk of the denoiser that is trained.
        shape: of a sample.
        batch: samples in a batch, drawn from the buffer with repetition.
        fresh: new samples at a time.
        every: steps between those times.
        capacity: of the buffer; the oldest leave it.
        start: what is in it at first; by default fresh samples.
    """

    follows_weights = True
    """A thread that draws ahead would meet weights that are being changed."""

    def __init__(
        self,
        walk: Walk,
        shape: Sequence[int],
        batch: int = 128,
        *,
        fresh: int = 256,
        every: int = 50,
        capacity: int = 2048,
        start: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if min(batch, fresh, every, capacity) < 1:
            raise ValueError(
                f"OwnSamples: batch, fresh, every and capacity are at least 1: {batch}, {fresh}, {every}, {capacity}"
            )
        self.walk, self.shape, self.batch = walk, tuple(shape), batch
        self.fresh, self.every, self.capacity, self.dtype = fresh, every, capacity, dtype
        self.samples = torch.empty(0, *self.shape, dtype=dtype) if start is None else start

    def next(self, tick: Tick) -> Replayed:
        """A batch, after fresh samples where it is their time."""
        self.samples = self.samples.to(tick.device)
        if not len(self.samples) or (tick.step and tick.step % self.every == 0 and tick.turn == 0):
            self.add(tick)
        u = tick.noise(self.batch).uniform((self.batch,), tick.step, PICK_SLOT)
        index = (u * len(self.samples)).long().clamp(max=len(self.samples) - 1)
        return Replayed(self.samples[index], self.samples)

    @torch.no_grad()
    def add(self, tick: Tick) -> None:
        """Fresh samples of the model as it is."""
        seeds = tick.seeds(self.fresh)
        start = self.walk.path.prior((self.fresh, *self.shape), seeds, self.dtype, tick.device)
        x = first_leaf(self.walk.run(start, seeds=seeds).x)
        kept = x[x.flatten(1).isfinite().all(1)]
        self.samples = torch.cat([self.samples.to(kept), kept])[-self.capacity :]

    def state(self) -> dict[str, Any]:
        """The buffer."""
        return {"samples": self.samples}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on with it."""
        self.samples = state["samples"]


def expected(
    log_gamma: LogDensity, path: GaussianPath, x_t: Tensor, t: Tensor, draws: int, noise: Noise, step: int
) -> tuple[Tensor, Tensor]:
    """The target's `E[x | x_t]`, in x_t's shape, and `log p_t(x_t)` `[B]`, up to gamma's factor: by K draws each,

        x^k ~ N(x_t / alpha, (sigma / alpha)^2),      l_k = log gamma(x^k)
        p_t(x_t) = alpha^-D mean_k e^{l_k},           E[x | x_t] = sum_k softmax(l)_k x^k

    The first is unbiased, the second has a bias of order 1 / K. The score is `(alpha E[x | x_t] - x_t) / sigma^2`.
    """
    alpha, sigma = (lead(torch.as_tensor(f(t)), x_t) for f in (path.alpha, path.sigma))
    z = noise.normal((len(x_t), draws, *x_t.shape[1:]), step, AROUND_SLOT, x_t.dtype)
    x = (x_t[:, None] + sigma[:, None] * z) / alpha[:, None]
    with torch.no_grad():
        log_p = log_gamma(x.flatten(0, 1)).to(x_t).reshape(len(x_t), draws)
    dim = x_t[0].numel()
    log_p_t = log_p.logsumexp(1) - math.log(draws) - dim * alpha.flatten().log()
    return (lead(normalised(log_p), x) * x).sum(1), log_p_t


def log_noised(path: GaussianPath, x_t: Tensor, t: Tensor, samples: Tensor) -> Tensor:
    """`[B]`: `log (1/M) sum_b N(x_t; alpha x_b, sigma^2)`, the law of a sample that is picked and noised."""
    alpha, sigma = (torch.as_tensor(f(t)).to(x_t)[:, None] for f in (path.alpha, path.sigma))
    flat = samples.to(x_t).flatten(1)
    # not by products of x_t and x_b, whose difference would be lost at low noise
    distance = torch.cdist(x_t.flatten(1) / alpha, flat, compute_mode="donot_use_mm_for_euclid_dist")
    log_p = -0.5 * (distance * alpha / sigma) ** 2 - flat.shape[1] * (sigma.log() + 0.5 * math.log(2 * math.pi))
    return log_p.logsumexp(1) - math.log(len(samples))


class ImportanceMatching(nn.Module):
    """Importance-weighted score matching toward `gamma`, on batches of `OwnSamples`.

    "Importance weighted score matching for diffusion samplers with enhanced mode coverage", 2025.

    Args:
        denoiser: what is trained.
        log_gamma: the target's log-density, up to a constant: minus an energy, or a value over a temperature.
        draws: around each x_t, K.
        proposal: the law of the levels.
        weighting: what an error counts at each level; by default that of v.
        weigh: whether to weigh by `p_t / p_{B,t}`. Without, this is iterated denoising energy matching.
        keep: the share of a batch that must survive the weights; where they are too uneven for that, they are taken to
            a power below 1.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        log_gamma: LogDensity,
        *,
        draws: int = 200,
        proposal: Proposal | None = None,
        weighting: Weighting | None = None,
        weigh: bool = True,
        keep: float = 0.1,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.path = as_estimator(denoiser).path
        self.log_gamma, self.draws, self.weigh, self.keep = log_gamma, draws, weigh, keep
        self.proposal = LogNormal() if proposal is None else proposal
        sigma_data = getattr(denoiser, "sigma_data", None) or 1.0
        self.weighting = Uniform(of="v", sigma_data=sigma_data) if weighting is None else weighting

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps: this module, on this loss. Options are those of `kedge.train.Part`."""
        return Part(self, self, optimiser, **options)

    def forward(self, batch: Replayed, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """`[B]`, the weighted error of each sample; the plain error, and the share that the weights leave."""
        noise = tick.noise(len(batch.x))
        draw = self.proposal.draw(self.path, batch.x, noise, tick.step)
        x_t = self.path.perturb(batch.x, draw.t, draw.z)
        x_hat, log_p = expected(self.log_gamma, self.path, x_t, draw.t, self.draws, noise, tick.step)
        error, _ = denoising_error(self.denoiser, batch.x, draw, target=x_hat)
        L = level_error(error, draw.t)
        loss = self.weighting(self.path.log_snr(draw.t)).to(L) * L
        info: dict[str, Any] = {"error": L.detach().mean()}
        if self.weigh:
            log_w = log_p - log_noised(self.path, x_t, draw.t, batch.buffer)
            w = normalised(tempered(torch.zeros_like(log_w), log_w, self.keep) * log_w)
            loss = len(w) * w * loss
            info["ess"] = effective(log_w) / len(w)
        return loss, info
