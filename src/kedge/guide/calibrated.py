"""A denoiser whose mean error is taken off, level by level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.denoise import Estimate, Estimator
from kedge.elementary import Level
from kedge.guide.guide import Guide
from kedge.paths.gaussian import GaussianPath
from kedge.tree import Tree, lead, tree_map


@dataclass(frozen=True, eq=False)
class Calibrated(Guide):
    """`x_hat = D(x_t) - m_t` with `m_t = E[D(x_t)] - E[x]`, measured once on data by `kedge.distill.calibrated`.

    The score of the data has mean zero at every level, as `alpha_t` times it is a martingale of the reverse process. A
    learned one has the mean `eta_t = alpha_t m_t / sigma_t^2`; without it, the denoising loss is less by `|m_t|^2`,
    that of score matching by `|eta_t|^2 / 2` (Pang, Lu, Du, Lin, Yan and Deng, "On calibrating diffusion probabilistic
    models", NeurIPS 2023). In eps and in the velocity it is the same correction: their means become those of the data.

    Args:
        log_snr: the levels that m was measured at, rising: nearer to the data later.
        shift: m, `[groups, levels, *event]`. Between levels it is linear in the log-SNR, beyond them constant, and 0
            for what is clean.
        group: which group a sample is of, `[B]`, from the condition as the denoiser hears it; None: there is one.
    """

    log_snr: tuple[float, ...]
    shift: Tree
    group: Callable[[Any], Tensor] | None = None

    def __call__(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
        """One evaluation."""
        estimate = inner.estimate(x_t, t, cond)
        shares = self._shares(inner.path, t)
        group = None if self.group is None else self.group(cond)

        def corrected(x: Tensor, shift: Tensor) -> Tensor:
            rows = shift.to(x)
            rows = rows[:1] if group is None else rows[group.to(x.device)]
            for i, share in shares:
                x = x - (lead(share, x) if isinstance(share, Tensor) else share) * rows[:, i]
            return x

        return Estimate(tree_map(corrected, estimate.x, self.shift), estimate.extra)

    def _shares(self, path: GaussianPath, t: Level) -> list[tuple[int, Any]]:
        """How much each measured level counts at t, those that count for nothing left out where t is a number."""
        if isinstance(t, Tensor):
            at = path.log_snr(t).double()[..., None]
            return [(i, torch.where(t == 0, 0.0, _hat(self.log_snr, i, at)[..., 0])) for i in range(len(self.log_snr))]
        if t == 0:
            return []
        at, last = path.log_snr(t), len(self.log_snr) - 1
        i = sum([level <= at for level in self.log_snr]) - 1
        if i < 0 or i >= last:
            return [(max(i, 0), 1.0)]
        share = (at - self.log_snr[i]) / (self.log_snr[i + 1] - self.log_snr[i])
        return [(i, 1.0 - share), (i + 1, share)]


def _hat(at: tuple[float, ...], i: int, x: Tensor) -> Tensor:
    """The i-th piecewise linear hat over these places, constant beyond the outer ones."""
    x, here = x.clamp(at[0], at[-1]), torch.ones_like(x)
    if i > 0:
        here = torch.minimum(here, (x - at[i - 1]) / (at[i] - at[i - 1]))
    if i < len(at) - 1:
        here = torch.minimum(here, (at[i + 1] - x) / (at[i + 1] - at[i]))
    return here.clamp(min=0.0)
