"""Weighted particles: how much each counts, how many they are worth, which go on, and the evidence they have gathered.

Log-weights are `[*, N]`: N particles in each group, and groups never mix. Everything here is a function of tensors, so
that a filter over a walk, annealing and importance sampling share it. A group's evidence is the mean of its weights: a
resampled group carries its mean on as the weight of each member, so that the evidence can be read off at any time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kedge.noise import Noise
from kedge.slots import RESAMPLE_SLOT

HALVINGS = 60
"""Of an interval, until its ends are one number in double precision."""


def normalised(log_w: Tensor) -> Tensor:
    """`[*, N]` shares of their group's weight: they sum to 1."""
    _check(log_w, "normalised")
    return log_w.softmax(-1)


def evidence(log_w: Tensor) -> Tensor:
    """`[*]`: the log of the mean weight of each group, `log (1/N) sum_i w_i`; -inf where all weigh nothing."""
    return log_w.logsumexp(-1) - math.log(log_w.shape[-1])


def effective(log_w: Tensor) -> Tensor:
    """`[*]`: the effective sample size of each group, `(sum w)^2 / sum w^2`, from 1 to N (Kong, Liu and Wong, 1994)."""
    _check(log_w, "effective")
    return (2 * log_w.logsumexp(-1) - (2 * log_w).logsumexp(-1)).exp()


def surviving(log_w: Tensor, log_v: Tensor) -> Tensor:
    """`[*]`: the share of the particles that survives another weighing by v: the conditional effective sample size over
    N, with W the normalised weights so far (Zhou, Johansen and Aston, 2016, eq. 3.6),

        (sum_i W_i v_i)^2 / sum_i W_i v_i^2

    It is 1 for equal v, however unequal the weights are already.
    """
    log_w = log_w.log_softmax(-1)
    return (2 * (log_w + log_v).logsumexp(-1) - (log_w + 2 * log_v).logsumexp(-1)).exp()


def tempered(log_w: Tensor, log_v: Tensor, share: float = 0.5, limit: float | Tensor = 1.0) -> Tensor:
    """`[*]`: the largest power d of v, from 0 to `limit`, whose weighing leaves `share` of the particles.

    By bisection on `surviving(log_w, d log_v)`, which falls as d grows. Where particles that are impossible (v = 0) are
    so many that every power leaves fewer, it is the smallest power that bisection reaches: it removes them, no more.
    """
    _check(log_w, "tempered")
    if not 0 < share < 1:
        raise ValueError(f"tempered: a share of the particles lies between 0 and 1, got {share}")
    if log_v.shape != log_w.shape or bool((log_v == math.inf).any() or log_v.isnan().any()):
        raise ValueError(
            f"tempered: log-ratios {tuple(log_v.shape)} must be numbers or -inf, for log-weights {tuple(log_w.shape)}"
        )
    high = torch.as_tensor(limit, dtype=log_w.dtype, device=log_w.device).expand(log_w.shape[:-1])
    return furthest(high, lambda d: surviving(log_w, powered(log_v, d)) >= share)


def furthest(limit: Tensor, passes: Callable[[Tensor], Tensor]) -> Tensor:
    """The largest number from 0 to `limit` that still passes, entry by entry, by bisection: the test must fail from
    somewhere on. Where nothing passes it is the smallest number that bisection reaches.
    """
    low, high, whole = torch.zeros_like(limit), limit, passes(limit) | (limit <= 0)
    for _ in range(0 if bool(whole.all()) else HALVINGS):
        middle = 0.5 * (low + high)
        yes = passes(middle)
        low, high = torch.where(yes, middle, low), torch.where(yes, high, middle)
    return torch.where(whole, limit, torch.where(low > 0, low, high))


def powered(log_v: Tensor, d: Tensor) -> Tensor:
    """`d log v` of each group's own power, `[*, N]`: what is impossible stays so at every power above 0."""
    d = d[..., None]
    return torch.where(log_v == -math.inf, torch.where(d > 0, -math.inf, 0.0).to(log_v), d * log_v)


def systematic(log_w: Tensor, noise: Noise, step: int, count: int | None = None, slot: int = RESAMPLE_SLOT) -> Tensor:
    """`[*, count]`: which particles of its group go on, each i as often as `count W_i` or one more or less, and so
    often on average (Carpenter, Clifford and Fearnhead, 1999). `count` is by default N.

    One uniform number shifts a comb over the weights of a group: `noise` has one key for each group.
    """
    _check(log_w, "systematic")
    W = log_w.softmax(-1).double()
    groups, n = W.shape[:-1].numel(), W.shape[-1]
    if len(noise.key) != groups:
        raise ValueError(f"systematic: {groups} groups want noise of {groups} keys, got {len(noise.key)}")
    m = n if count is None else count
    u = noise.uniform((groups,), step, slot).to(W).reshape(*W.shape[:-1], 1)
    comb = (torch.arange(m, device=W.device) + u) / m
    edges = W.cumsum(-1)
    # the last edge may round to less than the last tooth: what then falls beyond it belongs to the last with a weight
    last = (W > 0).int().mul(torch.arange(1, n + 1, device=W.device)).amax(-1, keepdim=True) - 1
    return torch.searchsorted(edges, comb, right=True).minimum(last)


def resampled(
    log_w: Tensor, noise: Noise, step: int, below: float = 0.5, slot: int = RESAMPLE_SLOT
) -> tuple[Tensor, Tensor]:
    """Who goes on, `[*, N]` places in the group, and the weights they go on with.

    A group whose effective sample size is less than `below` N is resampled, and each member then carries the mean
    weight; the others stay as they are.
    """
    poor = (effective(log_w) < below * log_w.shape[-1])[..., None]
    stay = torch.arange(log_w.shape[-1], device=log_w.device).expand(log_w.shape)
    index = torch.where(poor, systematic(log_w, noise, step, slot=slot), stay)
    return index, torch.where(poor, evidence(log_w)[..., None].expand(log_w.shape), log_w)


def rows(index: Tensor) -> Tensor:
    """Places in groups, `[*, N]`, as rows of a batch that holds the groups one after the other: for `tree.take`."""
    flat = index.reshape(-1, index.shape[-1])
    return (flat + flat.shape[-1] * torch.arange(len(flat), device=index.device)[:, None]).flatten()


def _check(log_w: Tensor, where: str) -> None:
    if log_w.ndim < 1 or log_w.shape[-1] < 1 or not log_w.is_floating_point():
        raise ValueError(f"{where}: log-weights are [*, N] floating numbers, got {log_w.dtype} {tuple(log_w.shape)}")
    best = log_w.amax(-1)
    if not bool((best.abs() < math.inf).all()):  # nan is not less
        raise ValueError(f"{where}: in each group some weight must be positive, and none infinite or nan; the largest "
                         f"log-weights are {best.flatten()[:8].tolist()}")  # fmt: skip
