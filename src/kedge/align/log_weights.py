"""The log-weight of a walk, or of its steps, and the mean that is taken off it: on tensors, whatever a walk is made of.

With a reference `p_ref`, a model `p_theta` and a temperature beta, `p_theta` is `p* ~ p_ref e^{r / beta}` where the
log-weight is the same for all walks:

    log w = r(x_0) / beta + sum_k [log p_ref(step k) - log p_theta(step k)]

The variance of `log w` is the objective; where the reward enters along the walk, and what is taken for the mean, are
choices, and most published methods are one pair of them.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Potential = Literal["terminal", "difference", "to-go"]
"""Where the reward enters. terminal: at the end, one weight a walk. difference: at each step by as much as the reward
of the estimate grows, one weight a step. to-go: all that is still to come from a step on, one weight a step."""

Baseline = Literal["batch", "leave-one-out", "group", "pair", "log-z", "flow"]
"""How the mean of the log-weights is taken. batch: over all walks. leave-one-out: over all others, of its
condition where there are some. group, pair: over those of one condition. log-z: a learned number. flow: one a state."""


def log_weights(log_ratio: Tensor, potential: Tensor, which: Potential) -> Tensor:
    """`[1, B]` for "terminal", else `[K, B]`.

    Args:
        log_ratio: `[K, B]`, `log p_ref - log p_theta` of each random step.
        potential: `[K + 1, B]`, a log-potential before each random step and at the end, where it is `r / beta`. Its
            differences telescope, so that over a whole walk only its ends count.
        which: what is weighed.
    """
    if potential.shape != (len(log_ratio) + 1, *log_ratio.shape[1:]):
        raise ValueError(
            f"log_weights: {len(log_ratio)} steps want {len(log_ratio) + 1} potentials of the same walks, got "
            f"{tuple(potential.shape)} for {tuple(log_ratio.shape)}"
        )
    if which == "terminal":
        return (log_ratio.sum(0) + potential[-1])[None]
    steps = log_ratio + potential[1:] - potential[:-1]
    return steps if which == "difference" else steps.flip(0).cumsum(0).flip(0)


def mean_within(
    values: Tensor, group: Tensor | None = None, *, others: bool = False, counts: Tensor | None = None
) -> Tensor:
    """The mean over the samples of each one's group, the last axis being samples; the same shape.

    group:  `[B]` whole numbers; None: all are one group
    others: without the sample itself
    counts: `[B]` booleans: only these count. A sample that counts for nothing, or has nobody left to be compared with,
            is its own mean
    """
    group = torch.zeros(values.shape[-1], dtype=torch.int64, device=values.device) if group is None else group
    _, place, size = group.unique(return_inverse=True, return_counts=True)
    if others and int(size.min()) < 2:
        raise ValueError("leave-one-out wants two samples in each group, and there is a group of one")
    here = torch.ones_like(group, dtype=torch.bool) if counts is None else counts
    kept = torch.where(here, values, 0.0)
    total = kept.new_zeros(*values.shape[:-1], len(size)).index_add(-1, place, kept).index_select(-1, place)
    count = kept.new_zeros(len(size)).index_add(0, place, here.to(kept))[place]
    if others:
        total, count = total - kept, count - here.to(kept)
    return torch.where(here & (count > 0), total / count.clamp(min=1), values)


def centred(log_w: Tensor, baseline: Baseline, group: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
    """`log w - M`, M being a mean of the walks that count, which no gradient enters: "batch" to "pair"."""
    still = log_w.detach()
    match baseline:
        case "batch":
            mean = mean_within(still, counts=counts)
        case "leave-one-out":
            mean = mean_within(still, group, others=True, counts=counts)
        case "group" | "pair":
            if group is None:
                raise ValueError(f"baseline {baseline!r} wants groups of walks: OwnWalks(each=2) or more")
            if baseline == "pair" and not bool((group.unique(return_counts=True)[1] == 2).all()):
                raise ValueError('baseline "pair" wants two walks in each group: OwnWalks(each=2)')
            mean = mean_within(still, group, counts=counts)
        case _:
            raise ValueError(f"baseline {baseline!r} is learned, not a mean of the walks")
    # what does not count is its own mean: 0, and no gradient
    return log_w - mean if counts is None else torch.where(counts, log_w - mean, 0.0)
