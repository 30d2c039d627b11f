"""What DPM-Solver-v3 wants to know of a denoiser, told by the denoiser on noised data."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kedge.denoise import Estimator, as_estimator
from kedge.noise import Noise
from kedge.slots import PROBE_SLOT
from kedge.walk.solvers.statistics import Statistics


@torch.no_grad()
def statistics_of(
    denoiser: Any,
    data: Tensor,
    *,
    rows: int = 120,
    scales: tuple[float, float] | None = None,
    cond: Any = None,
    seed: int = 0,
) -> Statistics:
    """The l, s and b that leave the least to a first-order step, at `rows` noise scales in geometric progression. With
    lambda = log(alpha / sigma), `y = x_t / alpha` and expectations over noised data, entry by entry,

        l = 1 - E[d x_hat / d y]                        (eq. 8: the linear part of eps; by v (J v), v of random signs)
        f = (1 - l) y - x_hat
        s = Cov(f, df/dlambda) / Var f,      b = E[df/dlambda] - s E[f]                    (eq. 10, least squares)

    where `df/dlambda` is along the flow, `dy/dlambda = x_hat - y`. Zheng et al., "DPM-Solver-v3", NeurIPS 2023.

    Args:
        denoiser: anything that a walk takes. Its network is differentiated forwards.
        data: `[K, *entries]` samples: thousands of them for s and b to be told from chance.
        rows: of the table, 5 or more.
        scales: the smallest and the largest noise scale; by default the path's.
        cond: what the network is conditioned on, one for each of the data.
        seed: of noise and signs.
    """
    if rows < 5 or len(data) < 2:
        raise ValueError(f"statistics_of: 5 rows or more, and 2 samples or more; got {rows=} and {len(data)} samples")
    inner = as_estimator(denoiser)
    path = inner.path
    low, high = scales or (path.noise_scale(path.t_min), path.noise_scale(path.t_max))
    at = torch.linspace(-math.log(high), -math.log(low), rows, dtype=torch.float64)
    asked = _Asked(inner, data, inner.prepare(cond), Noise.of(seed, len(data)))
    l = torch.stack([asked.linear(lam) for lam in at])  # noqa: E741
    slopes = _slopes(l, at)
    found = [asked.rest(lam, l[i], slopes[i]) for i, lam in enumerate(at)]
    s, b = (torch.stack(one) for one in zip(*found, strict=True))
    return Statistics(at, l, s, b)


class _Asked:
    """A denoiser and noised data, as functions of y and lambda. All rows share one noise: what chance adds to the table
    is smooth then, and differences between rows are those of the model.
    """

    def __init__(self, denoiser: Estimator, data: Tensor, cond: Any, noise: Noise) -> None:
        self.denoiser, self.data, self.cond, self.noise = denoiser, data, cond, noise

    def _x_hat(self, y: Tensor, lam: Tensor) -> Tensor:
        path = self.denoiser.path
        t = path.time_of(2 * lam).to(y)
        alpha = path.alpha(t)
        x: Any = self.denoiser.estimate(alpha.reshape(-1, *[1] * (y.ndim - 1)) * y, t, self.cond).x
        return x

    def _noised(self, lam: Tensor) -> Tensor:
        z = self.noise.normal(self.data.shape, 0, dtype=self.data.dtype)
        return self.data + torch.exp(-lam).to(z) * z

    def _along(self, y: Tensor, lam: Tensor, dy: Tensor, dlam: float) -> tuple[Tensor, Tensor]:
        levels = lam.expand(len(y)).contiguous()
        with sdpa_kernel(SDPBackend.MATH):  # the fast kernels of attention have no forward derivative
            x_hat, moved, *_ = torch.func.jvp(self._x_hat, (y, levels), (dy, torch.full_like(levels, dlam)))
        return x_hat, moved

    def linear(self, lam: Tensor) -> Tensor:
        """l."""
        y = self._noised(lam)
        signs = torch.where(self.noise.uniform(y.shape, 0, PROBE_SLOT) < 0.5, -1.0, 1.0).to(y)
        return 1 - (signs * self._along(y, lam, signs, 0.0)[1]).double().mean(0)

    def rest(self, lam: Tensor, l: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
        """s and b. Where f does not vary there is nothing for s to explain."""
        y = self._noised(lam)
        dy = self._x_hat(y, lam.expand(len(y))) - y
        x_hat, moved = self._along(y, lam, dy, 1.0)
        y, dy, x_hat, moved = (value.double() for value in (y, dy, x_hat, moved))
        f, df = (1 - l) * y - x_hat, (1 - l) * dy - slope * y - moved
        centred = f - f.mean(0)
        variance = centred.square().mean(0)
        varies = variance > (100 * torch.finfo(self.data.dtype).eps) ** 2 * y.square().mean(0)
        s = torch.where(varies, (centred * df).mean(0) / torch.where(varies, variance, 1.0), 0.0)
        return s, df.mean(0) - s * f.mean(0)


def _slopes(l: Tensor, at: Tensor) -> Tensor:  # noqa: E741
    """Derivatives of evenly spaced rows, by the quartic through the five nearest."""
    slopes, h = torch.empty_like(l), 12 * (at[1] - at[0])
    slopes[2:-2] = (8 * (l[3:-1] - l[1:-3]) - (l[4:] - l[:-4])) / h
    for ends, sign in ((l[:5], 1), (l[-5:].flip(0), -1)):
        edge = torch.tensor([[-25.0, 48.0, -36.0, 16.0, -3.0], [-3.0, -10.0, 18.0, -6.0, 1.0]]).to(l)
        found = sign * torch.einsum("ij,j...->i...", edge, ends) / h
        slopes[[0, 1] if sign > 0 else [-1, -2]] = found
    return slopes
