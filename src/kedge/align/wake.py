"""Amortised posteriors by the inclusive divergence: `E_x KL(p(z | x) || q(z | x))`, with particles from annealing.

Its gradient is `-E_{p(z | x)} grad log q(z | x)`. Draws of the posterior by self-normalised importance sampling from q
itself go in a circle: a mode that q has lost is never drawn, so that q never hears of it. Here the particles owe
nothing to q: they start at the prior and are annealed by powers of the likelihood, for each data point by itself.

A sampler's weighted particles are biased at any fixed number of them. Its evidence is not (but for what it adapts), and
so the particles of M samplers, each sampler weighted by its evidence, become right as M grows.

McNamara, Loper and Regier, "Sequential Monte Carlo for inclusive KL minimization in amortized variational inference",
AISTATS 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from kedge.align.anneal import KeepESS, Move, Pace, annealed
from kedge.noise import Noise
from kedge.particles import effective, normalised, systematic
from kedge.slots import CHOOSE_SLOT
from kedge.train import OptimiserSpec, Part, Tick

Heard = Literal["all", "newest"]
"""Which of a data point's samplers are learned from: all, each weighted by its evidence; or the newest alone, which is
biased however long it goes on."""


@runtime_checkable
class Prior(Protocol):
    """What samplers start from, such as a `kedge.exact.GaussianMixture`."""

    def sample(self, n: int, seeds: Any = None) -> Tensor:
        """`[n, *event]`."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """`[n]`, normalised."""
        ...


class Samplers:
    """A source of batches: data points and weighted particles of their posteriors, of more and more samplers.

    A batch holds `x [b, *]`, `z [b, P, *event]` and `weight [b, P]`, which sums to 1 for each data point.

    Args:
        data: `[n, *]`, what was observed.
        prior: of z.
        log_likelihood: `log_likelihood(z, x) -> [B]`, of `[B, *event]` and `[B, *]`, differentiable in z.
        batch: data points in a batch.
        particles: of one sampler, K.
        every: steps after which each data point gets one sampler more.
        most: samplers of a data point, M; when it has so many it gets no more.
        heard: which of them are learned from.
        choose: so many of the particles, drawn anew by their weights at each step, stand for all; None: all are heard.
        schedule: the powers of the likelihood; by default each leaves half of the particles.
        move: see `annealed`.
        seed: of the order of the data.
    """

    def __init__(
        self,
        data: Tensor,
        prior: Prior,
        log_likelihood: Callable[[Tensor, Tensor], Tensor],
        *,
        batch: int = 16,
        particles: int = 100,
        every: int = 50,
        most: int = 100,
        heard: Heard = "all",
        choose: int | None = None,
        schedule: Pace | None = None,
        move: Move | None = None,
        seed: int = 0,
    ) -> None:
        if not 1 <= batch <= len(data):
            raise ValueError(f"Samplers: the batch lies between 1 and the {len(data)} data points, got {batch}")
        if heard not in get_args(Heard):
            raise ValueError(f"Samplers: unknown heard={heard!r}: one of {', '.join(get_args(Heard))}")
        if min(particles, every, most) < 1:
            raise ValueError(f"Samplers: particles, every and most are at least 1: {particles}, {every}, {most}")
        self.data, self.prior, self.log_likelihood = data, prior, log_likelihood
        self.particles, self.every, self.most = particles, every, most
        self.heard, self.choose = heard, choose
        self.schedule, self.move = KeepESS(0.5) if schedule is None else schedule, move
        self.batch, self.seed = batch, seed
        self.z: list[Tensor] = []
        self.log_w: list[Tensor] = []

    def next(self, tick: Tick) -> dict[str, Tensor]:
        """Some of the data points, with what is known of their posteriors by now."""
        if len(self.z) < min(self.most, tick.step // self.every + 1):
            self.add(tick)
        noise = Noise.of(self.seed, len(self.data), self.data.device)
        rows = noise.uniform((len(self.data),), tick.step, CHOOSE_SLOT).argsort()[: self.batch]
        z, log_w = self.known(rows)
        if self.choose is not None:
            index = systematic(log_w, tick.noise(self.batch), tick.step, self.choose, CHOOSE_SLOT)
            z, log_w = z[torch.arange(self.batch)[:, None], index], torch.zeros_like(index, dtype=log_w.dtype)
        return {"x": self.data[rows], "z": z, "weight": normalised(log_w)}

    def known(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Particles `[b, P, *event]` and log-weights `[b, P]` of these data points. Pooled, the weights of M samplers
        of K particles each are `Z_m w_mk` up to a factor, for the evidence is a sampler's mean weight.
        """
        kept = slice(None) if self.heard == "all" else slice(-1, None)
        z = torch.cat([z[rows] for z in self.z[kept]], 1)
        return z, torch.cat([log_w[rows] for log_w in self.log_w[kept]], 1)

    def add(self, tick: Tick) -> None:
        """One sampler more for every data point, all walked at once."""
        n, K = len(self.data), self.particles
        seeds = tick.seeds(n * K).to(self.data.device)
        x = self.data.repeat_interleave(K, 0)
        z = self.prior.sample(n * K, seeds)

        def log_joint(z: Tensor) -> Tensor:
            return self.prior.log_prob(z) + self.log_likelihood(z, x)

        made = annealed(z, self.prior.log_prob, log_joint, self.schedule, self.move, groups=n, seeds=seeds)
        self.z.append(made.x.reshape(n, K, *made.x.shape[1:]))
        self.log_w.append(made.log_w)

    def state(self) -> dict[str, Any]:
        """The particles."""
        return {"z": list(self.z), "log_w": list(self.log_w)}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on with these."""
        shapes = {tuple(log_w.shape) for log_w in state["log_w"]}
        if shapes - {(len(self.data), self.particles)}:
            raise ValueError(
                f"Samplers: the saved particles are of other data: {sorted(shapes)} there, "
                f"{(len(self.data), self.particles)} here"
            )
        self.z, self.log_w = list(state["z"]), list(state["log_w"])


class InclusiveLoss(nn.Module):
    """`-sum_i weight_i log q(z_i | x)` of each data point: the inclusive KL, but for the posterior's own entropy.

    q: a module with `log_prob(z, x) -> [B]`
    """

    def __init__(self, q: nn.Module) -> None:
        super().__init__()
        if not callable(getattr(q, "log_prob", None)):
            raise TypeError(f"InclusiveLoss: {type(q).__name__} has no log_prob(z, x)")
        self.q = q

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps: this module, on this loss. Options are those of `kedge.train.Part`."""
        return Part(self, self, optimiser, **options)

    def forward(self, batch: dict[str, Tensor], tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """`[b]`, and the effective number of particles."""
        x, z, weight = batch["x"], batch["z"], batch["weight"]
        log_prob: Callable[[Tensor, Tensor], Tensor] = self.q.log_prob  # pyright: ignore[reportAssignmentType]
        log_q = log_prob(z.flatten(0, 1), x.repeat_interleave(z.shape[1], 0)).reshape(weight.shape)
        return -(weight.to(log_q) * log_q).sum(1), {"ess": effective(weight.log()).mean()}
