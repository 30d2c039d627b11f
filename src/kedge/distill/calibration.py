"""How far a denoiser's mean is from that of the data, level by level; measured once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kedge.cond import take_cond
from kedge.denoise import Estimator, as_estimator
from kedge.distill.stored import store, stored
from kedge.errors import InputError
from kedge.guide.calibrated import Calibrated
from kedge.noise import Noise
from kedge.slots import Z_SLOT
from kedge.tree import Tree, first_leaf, leaves, take, tree_map
from kedge.walk.grids import Grid

FILE = "calibration"
"""What it is called next to a run."""


@torch.no_grad()
def calibrated(
    denoiser: Any,
    x: Tree,
    grid: Grid,
    cond: Any = None,
    *,
    known: Tree | None = None,
    group: Callable[[Any], Tensor] | None = None,
    passes: int = 2,
    batch: int = 1024,
    seeds: int = 0,
) -> Calibrated:
    """`m_t`, the mean of `D(x_t) - x` over the data with fresh noise, at each level of a grid above 0. With the same x
    on both sides it varies less than the mean of `D(x_t)` does.

    Args:
        denoiser: what is calibrated.
        x: data, all of them or some thousands; samples of the model do as well.
        grid: the levels that will be walked.
        cond: what each sample is conditioned on.
        known: True where an entry is pinned: it stays clean, and its mean error is 0 (see `denoising_error`).
        group: numbers a sample's condition, as the denoiser hears it, from 0 on: the mean is then that of the group.
        passes: noises for each sample; every second one is the negative of the one before, so that what is odd in the
            noise cancels out.
        batch: samples at a time.
        seeds: of the noise.
    """
    estimator = as_estimator(denoiser)
    rows = [row for row in grid.levels(estimator.path).rows() if isinstance(row, Tensor) or row > 0]
    if not rows or any(isinstance(row, Tensor) for row in rows):
        raise InputError("calibrated: the grid has to have levels above 0, one for all entries each")
    told = estimator.prepare(cond)
    count = first_leaf(x).shape[0]
    which = torch.zeros(count, dtype=torch.long) if group is None else group(told).cpu()
    groups = int(which.max()) + 1
    levels = sorted({float(row) for row in rows}, reverse=True)
    how = _How(which, groups, known, passes, batch, Noise.of(seeds, count, first_leaf(x).device))
    found = [_mean_error(estimator, x, t, told, how, i * passes) for i, t in enumerate(levels)]
    shift = tree_map(lambda *leaf: torch.stack(leaf, 1), *found)
    return Calibrated(tuple(float(estimator.path.log_snr(t)) for t in levels), shift, group)


class _How(NamedTuple):
    """Of which group each sample is, and with what noise it is asked."""

    which: Tensor
    groups: int
    known: Tree | None
    passes: int
    batch: int
    noise: Noise


def _mean_error(estimator: Estimator, x: Tree, t: float, told: Any, how: _How, first: int) -> Tree:
    """`[groups, *event]`, with the noise of the steps from `first` on."""
    which, count, device = how.which, len(how.which), first_leaf(x).device
    members = torch.bincount(which, minlength=how.groups).clamp(min=1) * how.passes
    sums = tree_map(lambda leaf: leaf.new_zeros(how.groups, *leaf.shape[1:], dtype=torch.float64), x)
    for place in range(how.passes):
        for begin in range(0, count, how.batch):
            index = torch.arange(begin, min(begin + how.batch, count), device=device)
            some = take(x, index)
            z = estimator.path.noise(some, how.noise.take(index, fork=False), first + place // 2, Z_SLOT)
            x_t = estimator.path.perturb(some, t, tree_map(torch.neg, z) if place % 2 else z)
            x_t = x_t if how.known is None else tree_map(lambda m, x, x_t: x_t.where(~m, x), how.known, some, x_t)
            error = tree_map(torch.sub, estimator.estimate(x_t, t, take_cond(told, index)).x, some)
            error = error if how.known is None else tree_map(lambda e, m: e.masked_fill(m, 0.0), error, how.known)
            for total, entries in zip(leaves(sums), leaves(error), strict=True):
                total.index_add_(0, which.to(index)[index], entries.double())
    return tree_map(lambda s: s / members.to(s).reshape(-1, *[1] * (s.ndim - 1)), sums)


def store_calibration(folder: Path | str, rule: Calibrated) -> None:
    """Next to a run; what tells the groups is code, and is not stored."""
    fields = {"": rule.shift} if isinstance(rule.shift, Tensor) else {f".{k}": v for k, v in rule.shift.items()}
    tensors = {"log_snr": torch.tensor(rule.log_snr, dtype=torch.float64)}
    groups = first_leaf(rule.shift).shape[0]
    store(folder, FILE, tensors | {f"shift{name}": value for name, value in fields.items()}, {"groups": groups})


def stored_calibration(folder: Path | str, group: Callable[[Any], Tensor] | None = None) -> Calibrated:
    """What was stored."""
    tensors, said = stored(folder, FILE, {"groups": int})
    if said["groups"] > 1 and group is None:
        raise InputError(f"{folder}: it was calibrated for {said['groups']} groups: say by `group` which is which")
    fields = {name.removeprefix("shift."): value for name, value in tensors.items() if name.startswith("shift.")}
    return Calibrated(tuple(tensors["log_snr"].tolist()), fields or tensors["shift"], group)
