"""Proposals that cover their target: mixtures fitted by the forward divergence, and what is estimated with them.

`KL(p || q) = -E_p log q + const` asks of q to be large wherever p is. Its expectation is taken over draws of the
proposal so far, with self-normalised weights `w = gamma / q`, and its minimum over a mixture is approached by weighted
EM: moment matching, in closed form, step by step (Cappe et al., "Adaptive importance sampling in general mixture
classes", 2008). Reverse KL, in contrast, pays nothing for a mode that q does not see.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kedge.align.anneal import LogDensity
from kedge.noise import Noise, Seeds
from kedge.particles import effective, evidence, normalised, tempered
from kedge.slots import NORMAL_SLOT, TAIL_SLOT, WHICH_SLOT
from kedge.tree import lead


@dataclass(frozen=True, eq=False)
class Mixture:
    """`sum_k a_k t(x; mu_k, S_k, nu_k)`: Student-t components, or Gaussians where nu is infinite.

    weights: `[K]`, positive; they need not sum to 1
    means:   `[K, D]`
    scales:  `[K, D, D]`, the matrices S: covariances of Gaussians, `(nu - 2) / nu` of a t's covariance
    dof:     `[K]`, nu: whole numbers, or infinity
    """

    weights: Tensor
    means: Tensor
    scales: Tensor
    dof: Tensor

    def __post_init__(self) -> None:
        (k, d), whole = self.means.shape, self.dof.isinf() | (self.dof == self.dof.round())
        if self.weights.shape != (k,) or self.dof.shape != (k,) or self.scales.shape != (k, d, d):
            found = [list(t.shape) for t in (self.weights, self.scales, self.dof)]
            raise ValueError(f"Mixture: {k} means want weights [{k}], scales [{k}, {d}, {d}], dof [{k}]; got {found}")
        if not bool((self.weights > 0).all() and (self.dof >= 1).all() and whole.all()):
            raise ValueError("Mixture: weights must be positive, and degrees of freedom whole numbers from 1, or inf")

    @classmethod
    def one(cls, mean: Tensor, scale: Tensor, dof: float = math.inf) -> Mixture:
        """A single component: `[D]` and `[D, D]`."""
        return cls(mean.new_ones(1), mean[None], scale[None], mean.new_tensor([dof]))

    @property
    def dim(self) -> int:
        """D."""
        return self.means.shape[1]

    @cached_property
    def roots(self) -> Tensor:
        """The Cholesky factors of the scales."""
        return torch.linalg.cholesky(self.scales)

    def mixed(self, other: Mixture, share: float) -> Mixture:
        """`(1 - share) q + share other`."""
        mine, theirs = self.weights / self.weights.sum(), other.weights / other.weights.sum()
        pairs = zip((self.means, self.scales, self.dof), (other.means, other.scales, other.dof), strict=True)
        return Mixture(torch.cat([(1 - share) * mine, share * theirs]), *(torch.cat(pair) for pair in pairs))

    def distances(self, x: Tensor) -> Tensor:
        """`[B, K]`: `(x - mu_k)^T S_k^-1 (x - mu_k)`."""
        centred = (x[:, None] - self.means).permute(1, 2, 0)
        return torch.linalg.solve_triangular(self.roots, centred, upper=False).square().sum(1).T

    def log_joint(self, x: Tensor) -> Tensor:
        """`[B, K]`: `log a_k + log t(x; mu_k, S_k, nu_k)`."""
        m, d, nu = self.distances(x), self.dim, self.dof
        finite = torch.where(nu.isinf(), 1.0, nu)
        tail = 0.5 * (finite + d)
        norm = tail.lgamma() - (0.5 * finite).lgamma() - 0.5 * d * (math.pi * finite).log()
        student = norm - tail * (m / finite).log1p()
        shape = torch.where(nu.isinf(), -0.5 * (m + d * math.log(2 * math.pi)), student)
        log_det = self.roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self.weights.log() - self.weights.sum().log() + shape - log_det

    def log_prob(self, x: Tensor) -> Tensor:
        """`[B]`."""
        return self.log_joint(x).logsumexp(1)

    def sample(self, n: int, seeds: Seeds = None) -> Tensor:
        """`[n, D]`. A t is a Gaussian whose variance is divided by `chi^2_nu / nu`, the mean of nu squared normals."""
        noise = Noise.of(seeds, n, self.means.device)
        share = (self.weights / self.weights.sum()).cumsum(0)
        u = noise.uniform((n,), 0, WHICH_SLOT).to(share)
        k = torch.searchsorted(share, u).clamp(max=len(share) - 1)
        z = noise.normal((n, self.dim), 0, NORMAL_SLOT, self.means.dtype)
        nu = self.dof[k]
        if bool((nu < math.inf).any()):
            longest = int(self.dof[self.dof < math.inf].max())
            squares = noise.normal((n, longest), 0, TAIL_SLOT, self.means.dtype).square()
            counted = torch.arange(longest, device=z.device) < nu[:, None]
            z = z / torch.where(nu.isinf(), 1.0, (squares * counted).sum(1) / nu.clamp(max=longest)).sqrt()[:, None]
        return self.means[k] + torch.einsum("nij,nj->ni", self.roots[k], z)


@dataclass(frozen=True, eq=False)
class Weighted:
    """Draws of a proposal and how much they count.

    x:         `[N, D]`
    log_gamma: `[N]`, of the target, up to a constant
    log_q:     `[N]`, of the proposal that drew them
    """

    x: Tensor
    log_gamma: Tensor
    log_q: Tensor

    @property
    def log_w(self) -> Tensor:
        """`log gamma - log q`."""
        return self.log_gamma - self.log_q

    @property
    def log_z(self) -> Tensor:
        """The log of the mean weight; Z is unbiased."""
        return evidence(self.log_w)

    @property
    def ess(self) -> Tensor:
        """The effective sample size, `N / (1 + chi^2(p, q))` by these draws."""
        return effective(self.log_w)

    @property
    def chi_square(self) -> Tensor:
        """The estimate of `chi^2(p, q)`."""
        return len(self.log_w) / self.ess - 1

    def mean(self, f: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        """The self-normalised estimate of `E_p f`."""
        values = f(self.x)
        return (lead(normalised(self.log_w), values) * values).sum(0)


def weighed(q: Mixture, log_gamma: LogDensity, n: int, seeds: Seeds = None) -> Weighted:
    """n draws of q and their weights for gamma: the importance sampling that a proposal is made for."""
    x = q.sample(n, seeds)
    log_p = log_gamma(x).to(x)
    if log_p.shape != (n,):
        raise ValueError(f"weighed: a log-density of {n} points is [{n}], this one is {list(log_p.shape)}")
    return Weighted(x, log_p, q.log_prob(x))


def matched(q: Mixture, x: Tensor, W: Tensor) -> Mixture:
    """One step of weighted EM, by which `-sum_i W_i log q(x_i)` falls.

        r_ik = a_k t_k(x_i) / q(x_i),      u_ik = (nu + D) / (nu + distance_ik^2)    (1 for a Gaussian)
        a_k = sum_i W_i r_ik
        mu_k = sum_i W_i r_ik u_ik x_i / sum_i W_i r_ik u_ik
        S_k = sum_i W_i r_ik u_ik (x_i - mu_k) (x_i - mu_k)^T / a_k

    A component that few draws speak for keeps to its scale: as if D + 1 draws more had been of the old one. One that
    none speaks for stays where it is.

    W: `[B]` weights that sum to 1
    """
    r = W[:, None] * q.log_joint(x).softmax(1)
    a = r.sum(0)
    u = torch.where(q.dof.isinf(), 1.0, (q.dof + q.dim) / (q.dof + q.distances(x)))
    c = r * u
    heard = a > 1e-12
    means = torch.where(heard[:, None], c.T @ x / c.sum(0).clamp(min=1e-30)[:, None], q.means)
    centred = x[:, None] - means
    S = torch.einsum("bk,bki,bkj->kij", c, centred, centred) / a.clamp(min=1e-30)[:, None, None]
    count = torch.where(heard, a**2 / r.square().sum(0).clamp(min=1e-30), 0.0)  # effective draws of each
    kept = ((q.dim + 1) / (count + q.dim + 1))[:, None, None]
    return Mixture(a.clamp(min=1e-12), means, (1 - kept) * S + kept * q.scales, q.dof)


def refined(
    q: Mixture,
    log_gamma: LogDensity,
    *,
    rounds: int = 10,
    n: int = 2000,
    defensive: float = 0.1,
    start: Mixture | None = None,
    keep: float = 0.02,
    seeds: int = 0,
) -> Mixture:
    """q moved toward the target by forward KL: in each round fresh draws, weights, and one step of EM.

    Args:
        q: the proposal so far, such as the fit of a variational method.
        log_gamma: the target's log-density, up to a constant.
        rounds: of draws.
        n: draws of a round.
        defensive: the share of the draws that is taken from `start`, so that no place that it covers is lost.
        start: by default q as it comes.
        keep: the share of the draws that must survive the weights; where they are too uneven for that, they are taken
            to a power below 1.
        seeds: of the first round; the others follow.
    """
    start = q if start is None else start
    for k in range(rounds):
        draws = weighed(q.mixed(start, defensive) if defensive else q, log_gamma, n, seeds + k)
        q = matched(q, draws.x, _shares(draws, keep))
    return q


def boosted(
    q: Mixture,
    log_gamma: LogDensity,
    components: int,
    *,
    dof: float = math.inf,
    rounds: int = 5,
    n: int = 2000,
    defensive: float = 0.1,
    keep: float = 0.02,
    seeds: int = 0,
) -> Mixture:
    """A proposal with so many components more, each added where the target exceeds q, then all refined.

    Which share the new one gets, and its moments, are the minimum of the forward KL with the others held still
    (`added`). `dof` is the new components'; all else as in `refined`.
    """
    start = q
    for k in range(components):
        first = seeds + (rounds + 1) * k
        draws = weighed(q.mixed(start, defensive) if defensive else q, log_gamma, n, first)
        q = added(q, draws, _shares(draws, keep), dof)
        q = refined(
            q, log_gamma, rounds=rounds, n=n, defensive=defensive, start=start, keep=keep, seeds=first + 1
        )  # fmt: skip
    return q


def added(q: Mixture, draws: Weighted, W: Tensor, dof: float = math.inf, turns: int = 10) -> Mixture:
    """q with one more component, which takes up what is left: it begins around the draw at which the target exceeds q
    the most, with the spread of the nearest quarter of the excess, and is fitted by EM while q stays as it is.

    W: `[N]` weights of the draws that sum to 1
    """
    x, log_q = draws.x, q.log_prob(draws.x)
    excess = (W - (log_q - draws.log_q).exp() / len(x)).clamp(min=0)  # (p - q)+ at the draws, over their own density
    if not bool((excess > 0).any()):
        return q
    h, share = _around(x, excess / excess.sum(), dof), 0.5
    for _ in range(turns):
        both = torch.stack([log_q + math.log1p(-share), h.log_prob(x) + math.log(share)])
        mine = W * both.softmax(0)[1]
        share = min(max(float(mine.sum()), 1e-6), 1 - 1e-6)
        h = matched(h, x, mine / mine.sum())
    return q.mixed(h, share)


def _around(x: Tensor, e: Tensor, dof: float) -> Mixture:
    """A component around the largest of the weights e, as wide as the nearest points that hold a quarter of them."""
    centred = x - e @ x
    whole = torch.einsum("b,bi,bj->ij", e, centred, centred) + 1e-9 * torch.eye(x.shape[1]).to(x)
    away = x - x[e.argmax()]
    distance = (away * torch.linalg.solve(whole, away.mT).mT).sum(1)
    order = distance.argsort()
    near = order[: int((e[order].cumsum(0) < 0.25).sum()) + x.shape[1] + 1]
    c = e[near] / e[near].sum().clamp(min=1e-30)
    mean = c @ x[near]
    scale = torch.einsum("b,bi,bj->ij", c, x[near] - mean, x[near] - mean)
    return Mixture.one(mean, scale + 1e-3 * whole, dof)


def _shares(draws: Weighted, keep: float) -> Tensor:
    """Normalised weights, to the largest power up to 1 that leaves so many of the draws."""
    return normalised(tempered(torch.zeros_like(draws.log_w), draws.log_w, keep) * draws.log_w)
