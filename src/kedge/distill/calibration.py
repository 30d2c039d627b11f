"""How far a denoiser's mean is from that of the data, level by level; measured once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    found = [_mean_error(estimator, x, t, told, which, groups, (i * passes, passes, batch, seeds))
             for i, t in enumerate(levels)]  # fmt: skip
    shift = tree_map(lambda *leaf: torch.stack(leaf, 1), *found)
    return Calibrated(tuple(float(estimator.path.log_snr(t)) for t in levels), shift, group)


def _mean_error(
    estimator: Estimator, x: Tree, t: float, told: Any, which: Tensor, groups: int, how: tuple[int, int, int, int]
) -> Tree:
    """`[groups, *event]`."""
    first, passes, batch, seeds = how
    count, noise = len(which), Noise.of(seeds, len(which), first_leaf(x).device)
    members = torch.bincount(which, minlength=groups).clamp(min=1) * passes
    sums = tree_map(lambda leaf: leaf.new_zeros(groups, *leaf.shape[1:], dtype=torch.float64), x)
    for place in range(passes):
        for begin in range(0, count, batch):
            index = torch.arange(begin, min(begin + batch, count), device=first_leaf(x).device)
            some = take(x, index)
            z = estimator.path.noise(some, noise.take(index, fork=False), first + place // 2, Z_SLOT)
            z = tree_map(torch.neg, z) if place % 2 else z
            x_hat = estimator.estimate(estimator.path.perturb(some, t, z), t, take_cond(told, index)).x
            for total, hat, clean in zip(leaves(sums), leaves(x_hat), leaves(some), strict=True):
                total.index_add_(0, which.to(index)[index], (hat - clean).double())
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
