"""Annealing: particles go from a law that can be sampled to one that is known up to a factor, and leave its evidence.

Between the two lies the geometric path

    pi_b  ~  pi_0^(1 - b) gamma^b  =  pi_0 e^{b L},      L = log gamma - log pi_0

from b = 0 to 1, or another of a family (`Bridge`). At every step the particles are weighed by `pi_b' / pi_b`, resampled
where their weights have become uneven, and moved by a chain that leaves `pi_b'` as it is: annealed importance sampling
(Neal, 2001) where they are never resampled, a sequential Monte Carlo sampler (Del Moral, Doucet and Jasra, 2006) where
they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kedge.noise import Noise, Seeds
from kedge.particles import effective, evidence, furthest, normalised, resampled, rows, surviving
from kedge.slots import ACCEPT_SLOT, MOMENTUM_SLOT
from kedge.tree import lead, sum_event

LogDensity = Callable[[Tensor], Tensor]
"""`log_p(x) -> [B]` of `[B, *event]`, differentiable; up to a constant where it says so."""


MOST_STEPS = 10_000
"""A schedule that has not arrived by then never will."""


@dataclass(frozen=True)
class Bridge:
    """The way between two laws along which an alpha-divergence falls fastest, and that divergence.

    The Fisher-Rao gradient flow of `D(pi || pi_1)`, `d log pi / ds = -(f'(u) - E_pi f'(u))` with `u = pi / pi_1` and
    `f'(u) = (u^(alpha - 1) - 1) / (alpha - 1)`, is a linear equation for `u^(1 - alpha)`. Its solution is

        pi_b  ~  [(1 - b) pi_0^(1 - alpha) + b gamma^(1 - alpha)]^(1 / (1 - alpha))

    the geometric path at alpha = 1 and the mixture of both laws at alpha = 0. The divergence is

        D = (E_b[u^(alpha - 1)] - 1) / (alpha (alpha - 1))

    which is `KL(pi_b || pi_1)` at 1, `KL(pi_1 || pi_b)` at 0, and half of chi^2 at 2. Away from 1 a factor of gamma
    shifts b: there gamma should be normalised, to within some ten nats.
    """

    alpha: float = 1.0

    def log(self, b: Tensor, start: Tensor, target: Tensor) -> Tensor:
        """`log pi_b` up to a constant, from both log-densities, in the shape of all three together."""
        rho = 1 - self.alpha
        if rho:
            way = torch.logaddexp((1 - b).log() + rho * start, b.log() + rho * target) / rho
        else:
            way = (1 - b) * start + b * target
        return torch.where(b <= 0, start, torch.where(b >= 1, target, way))

    def divergence(self, log_w: Tensor, log_v: Tensor) -> Tensor:
        """`[*]`, from particles `[*, N]` that are weighted for `pi_b`, with `v = gamma / pi_b`: `u = E_b[v] / v`."""
        W = log_w.log_softmax(-1)
        log_v = torch.where(W.isneginf(), 0.0, log_v)
        log_u = (W + log_v).logsumexp(-1)[..., None] - log_v
        if self.alpha == 1:
            return (W.exp() * log_u).sum(-1)
        if self.alpha == 0:
            share = torch.where(log_u.isposinf(), 0.0, -log_u * (-log_u).exp())
            return (W.exp() * share.nan_to_num(nan=0.0)).sum(-1)
        power = (W + (self.alpha - 1) * log_u).logsumexp(-1)
        return power.expm1() / (self.alpha * (self.alpha - 1))


@dataclass(frozen=True, eq=False)
class Here:
    """Where a run stands: b `[G]`, both log-densities and the log-weights of its particles, `[G, N]` each."""

    bridge: Bridge
    b: Tensor
    start: Tensor
    target: Tensor
    log_w: Tensor

    def log(self, s: Tensor) -> Tensor:
        """`[G, N]`: `log pi_s` up to a constant."""
        return self.bridge.log(s[:, None], self.start, self.target)

    def ahead(self, s: Tensor) -> Tensor:
        """`[G, N]`: `log pi_s / pi_b` at the particles, for a group whose s is its b it is 0."""
        step = (self.log(s) - self.log(self.b)).nan_to_num(nan=-math.inf, neginf=-math.inf)
        return torch.where((s > self.b)[:, None], step, 0.0)

    def left(self, s: Tensor) -> Tensor:
        """`[G]`: the divergence of `pi_s` from the target, by these particles, reweighed."""
        return self.bridge.divergence(self.log_w + self.ahead(s), self.target - self.log(s))


@runtime_checkable
class Pace(Protocol):
    """How far to go next."""

    def step(self, here: Here, k: int) -> Tensor:
        """`[G]`: how much each group's b grows at step k, at most to 1."""
        ...


@dataclass(frozen=True)
class Linear:
    """Equal steps of b, `steps` of them."""

    steps: int

    def __post_init__(self) -> None:
        _positive("Linear", self.steps)

    def step(self, here: Here, k: int) -> Tensor:
        """`(k + 1) / T - b`."""
        return (k + 1) / self.steps - here.b


@dataclass(frozen=True)
class KeepESS:
    """As far as leaves `share` of the particles, by the conditional effective sample size (`particles.surviving`)."""

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"KeepESS: a share of the particles lies between 0 and 1, got {self.share}")

    def step(self, here: Here, k: int) -> Tensor:
        """The largest db with `(sum W v)^2 >= share sum W v^2`, where `v = pi_(b + db) / pi_b`."""
        return furthest(1 - here.b, lambda db: surviving(here.log_w, here.ahead(here.b + db)) >= self.share)


@dataclass(frozen=True)
class ConstantRate:
    """The divergence from the target falls by the same amount at each of `steps` steps. Nothing is to be tuned.

    Along the geometric path `d KL(pi_b || pi_1) / db = -(1 - b) Var_b[L]`, so that to first order the step is

        db = c / ((1 - b) Var_b[L]),      c = KL_b / (steps left)

    Here the divergence after the step is measured instead, with the particles reweighed, for near the end the variance
    changes much within one; and c is measured anew at each step, so that the last one arrives at 1.

    Most of a divergence in nats lies where a broad start first meets a sharp target: that is where the steps go, and
    where they are worth most. Between laws that differ by less, the last step may be too long: `KeepESS` looks at it.

    Goshtasbpour, Cohen and Perez-Cruz, "Adaptive annealed importance sampling with constant rate progress", ICML 2023.
    """

    steps: int

    def __post_init__(self) -> None:
        _positive("ConstantRate", self.steps)

    def step(self, here: Here, k: int) -> Tensor:
        """The db after which `D_b (1 - 1 / (T - k))` is left, by bisection."""
        whole = here.left(here.b)
        if not bool(whole.isfinite().all()):
            raise ValueError("ConstantRate: the divergence from this target is infinite: use KeepESS()")
        goal = whole * (1 - 1 / max(self.steps - k, 1))
        return furthest(1 - here.b, lambda db: here.left(here.b + db) >= goal) if k + 1 < self.steps else 1 - here.b


@runtime_checkable
class Move(Protocol):
    """A chain that leaves a density as it is."""

    def __call__(self, x: Tensor, log_p: LogDensity, size: Tensor, noise: Noise, step: int) -> tuple[Tensor, Tensor]:
        """Where each goes, `[B, *event]`, and the share of its proposals that is accepted, `[B]`, in expectation.
        `size`, in the shape of x, is the length of a step in each entry.
        """
        ...

    def sized(self, length: Tensor, accepted: Tensor) -> Tensor:
        """`[G]`: the steps that a group takes next, in units of its spread, from the share that was accepted."""
        ...

    def first(self) -> float:
        """The steps that it begins with."""
        ...


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo with Metropolis' test: `leaps` leapfrog steps of a particle with random momentum,
    `repeat` times. With one leap it is the Metropolis-adjusted Langevin algorithm (MALA).

        v += (e / 2) grad log p(x);   x += e v;   v += (e / 2) grad log p(x)

    accepted with the probability `min(1, p(x') N(v') / (p(x) N(v)))` (Neal, 2011).

    Args:
        step: e, in units of the standard deviation of the particles, entry by entry.
        leaps: leapfrog steps of one proposal.
        repeat: proposals in one move.
        target: the share of accepted proposals toward which an annealing run adapts e between its steps; None keeps e.
    """

    step: float = 0.5
    leaps: int = 3
    repeat: int = 1
    target: float | None = 0.8

    def __post_init__(self) -> None:
        _positive("HMC", self.leaps)
        _positive("HMC", self.repeat)
        if not self.step > 0:
            raise ValueError(f"HMC: a step is positive, got {self.step}")
        if self.target is not None and not 0 < self.target < 1:
            raise ValueError(f"HMC: the share of accepted proposals lies between 0 and 1, got {self.target}")

    def first(self) -> float:
        """`step`."""
        return self.step

    def sized(self, length: Tensor, accepted: Tensor) -> Tensor:
        """`e^(accepted - target)` times as long, so that too many rejections shorten it."""
        return length if self.target is None else length * (accepted - self.target).exp()

    def __call__(self, x: Tensor, log_p: LogDensity, size: Tensor, noise: Noise, step: int) -> tuple[Tensor, Tensor]:
        """See `Move`."""
        share = x.new_zeros(len(x))
        here, slope = _graded(log_p, x)
        for turn in range(self.repeat):
            v = noise.normal(x.shape, step, MOMENTUM_SLOT + 64 * turn, x.dtype)
            u = noise.uniform((len(x),), step, ACCEPT_SLOT + 64 * turn, x.dtype)
            y, there, steep, w = x, here, slope, v
            for _ in range(self.leaps):
                w = w + 0.5 * size * steep
                y = y + size * w
                there, steep = _graded(log_p, y)
                w = w + 0.5 * size * steep
            gain = there - here + 0.5 * (sum_event(v**2) - sum_event(w**2))
            gain = gain.nan_to_num(nan=-math.inf, posinf=-math.inf)  # a density that overflows is no place to go to
            yes = u.log() < gain
            x, slope = torch.where(lead(yes, x).bool(), y, x), torch.where(lead(yes, x).bool(), steep, slope)
            here = torch.where(yes, there, here)
            share = share + gain.clamp(max=0).exp() / self.repeat
        return x, share


@dataclass(frozen=True, eq=False)
class Annealed:
    """Weighted samples of the target, and how they came there. G groups of N particles, one after the other in x.

    x:        `[G N, *event]`
    log_w:    `[G, N]`, whose mean weight estimates `Z = int gamma / int pi_0`
    schedule: `[K + 1, G]`, the values of b, from 0 to 1; a group that has arrived stays at 1
    left:     `[K + 1, G]`, the divergence of `pi_b` from the target at each, as the particles there estimate it
    sizes:    `[K, G, *event]`, the lengths of the moves' steps
    accepted: `[K, G]`, the share of the moves' proposals
    """

    x: Tensor
    log_w: Tensor
    schedule: Tensor
    left: Tensor
    sizes: Tensor
    accepted: Tensor

    @property
    def log_z(self) -> Tensor:
        """`[G]`: the log of the mean weight. Z itself is unbiased where a pilot has set the pace (see `annealed`)."""
        return evidence(self.log_w)

    @property
    def ess(self) -> Tensor:
        """`[G]`: the effective sample size."""
        return effective(self.log_w)

    def mean(self, f: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        """`[G, ...]`: the self-normalised estimate of `E f` under the target."""
        values = f(self.x)
        values = values.reshape(*self.log_w.shape, *values.shape[1:])
        return (lead(normalised(self.log_w), values) * values).sum(1)


def annealed(
    x: Tensor,
    log_start: LogDensity,
    log_target: LogDensity,
    schedule: Pace | None = None,
    move: Move | None = None,
    *,
    groups: int = 1,
    alpha: float = 1.0,
    resample: float = 0.5,
    pilot: Annealed | None = None,
    seeds: Seeds = None,
) -> Annealed:
    """Walks particles from one density to another.

    Args:
        x: `[G N, *event]`, draws of the start.
        log_start: its log-density, normalised if Z is to be.
        log_target: the target's, up to a constant. It may be -inf where the start is not.
        schedule: how far each step goes; by default `KeepESS(0.9)`.
        move: by default `HMC()`.
        groups: G. Groups have schedules, weights and evidences of their own, and never mix.
        alpha: of the divergence that falls fastest along the way; 1 is the geometric path. See `Bridge`.
        resample: below which share of effective particles a group is resampled. At 0 it never is.
        pilot: an earlier run, of as many groups or of one, whose schedule and lengths of steps are taken over. What the
            particles themselves adapt makes Z biased by a term of order 1 / N; after a pilot it is unbiased.
        seeds: one number for the call, or one for each particle.
    """
    if len(x) == 0 or len(x) % groups:
        raise ValueError(f"annealed: {len(x)} particles do not make {groups} groups of one size")
    move, pace = HMC() if move is None else move, _pace(schedule, pilot)
    noise = Noise.of(seeds, len(x), x.device)
    combs = Noise(noise.key[:: len(x) // groups])
    log_w = x.new_zeros(groups, len(x) // groups)
    b, length = x.new_zeros(groups), x.new_full((groups,), move.first())
    here = Here(Bridge(alpha), b, *_asked(x, log_start, log_target, log_w), log_w)
    walked, left, sizes, accepted = [b], [here.left(b)], list[Tensor](), list[Tensor]()
    while bool((b < 1).any()):
        if (k := len(accepted)) >= MOST_STEPS:
            raise RuntimeError(f"annealed: after {k} steps b is {float(b.min()):.3g}; is the target finite somewhere?")
        s = b + torch.minimum(torch.as_tensor(pace.step(here, k)), 1 - b)
        s = torch.where(1 - s < 1e-12, 1.0, s)
        index, log_w = resampled(log_w + here.ahead(s), combs, k, resample)
        x, b = x[rows(index)], s
        size = _spread(x, log_w, length) if pilot is None else pilot.sizes[k].expand(groups, *x.shape[1:])
        log_p = partial(_bridged, here.bridge, b.repeat_interleave(log_w.shape[1]), log_start, log_target)
        x, each = move(x, log_p, size.repeat_interleave(log_w.shape[1], 0), noise, k)
        share = (normalised(log_w) * each.reshape(log_w.shape)).sum(1)
        length = move.sized(length, share)
        here = Here(here.bridge, b, *_asked(x, log_start, log_target, log_w), log_w)
        walked, left = [*walked, b], [*left, here.left(b)]
        sizes, accepted = [*sizes, size], [*accepted, share]
    return Annealed(x, log_w, *(torch.stack(rows) for rows in (walked, left, sizes, accepted)))


@dataclass(frozen=True, eq=False)
class _Again:
    """The schedule that another run has walked."""

    values: Tensor

    def step(self, here: Here, k: int) -> Tensor:
        return self.values[k + 1] - here.b


def _pace(schedule: Pace | None, pilot: Annealed | None) -> Pace:
    if pilot is None:
        return KeepESS(0.9) if schedule is None else schedule
    if schedule is not None:
        raise ValueError("annealed: a pilot's schedule is taken over with it: give one or the other")
    return _Again(pilot.schedule)


def _bridged(bridge: Bridge, b: Tensor, log_start: LogDensity, log_target: LogDensity, x: Tensor) -> Tensor:
    """`log pi_b(x)`, `[B]`, each particle at its own b."""
    return bridge.log(b, log_start(x).to(x), log_target(x).to(x))


def _spread(x: Tensor, log_w: Tensor, length: Tensor) -> Tensor:
    """`[G, *event]`: so many weighted standard deviations of each entry."""
    x = x.reshape(*log_w.shape, *x.shape[1:])
    W = lead(normalised(log_w), x)
    mean = (W * x).sum(1, keepdim=True)
    std = (W * (x - mean) ** 2).sum(1).sqrt().clamp(min=1e-9)
    return lead(length, std) * std


def _graded(log_p: LogDensity, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p and its gradient; 0 where the density has none, so that a move out of bounds ends in a rejection."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = log_p(leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _asked(x: Tensor, log_start: LogDensity, log_target: LogDensity, like: Tensor) -> tuple[Tensor, Tensor]:
    """Both log-densities of the particles, `[G, N]`."""
    with torch.no_grad():
        start, target = log_start(x), log_target(x)
    if target.shape != x.shape[:1] or start.shape != x.shape[:1]:
        raise ValueError(
            f"annealed: log-densities of {len(x)} particles must be [{len(x)}], not {list(start.shape)} at the start "
            f"and {list(target.shape)} at the target"
        )
    if bool(start.isnan().any() or target.isnan().any() or target.isposinf().any() or start.isposinf().any()):
        raise ValueError("annealed: log-densities must be numbers, or -inf")
    return start.to(x).reshape(like.shape), target.to(x).reshape(like.shape)


def _positive(name: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"{name}: at least 1 is wanted, got {count}")
