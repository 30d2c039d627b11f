"""Grids by the spectrum of the data.

"An elementary approach to scheduling in generative diffusion models": of a Gaussian with variances lambda_i, n steps of
DDIM from noise of scale r_0 make a Gaussian, whose variances are known for every grid. In the units of clean data a
step from r to s multiplies direction i by `(lambda_i + r s) / (lambda_i + r^2)`, so that

    rho_i = r_0^2 / lambda_i prod over steps of m_i^2,    KL = 1/2 sum_i (rho_i - 1 - ln rho_i)
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from kedge.distill.subject import Subject, spread
from kedge.walk.grids import Fitted, Tangent

GOLDEN = (math.sqrt(5) - 1) / 2


def gauss_kl(scales: Float[Tensor, " n"], variances: Float[Tensor, " d"]) -> Tensor:
    """The relative entropy between what DDIM makes over these noise scales, the last step going to clean, and the
    Gaussian with these variances. Exact, and differentiable in the scales.
    """
    r, lam = torch.cat([scales, scales.new_zeros(1)]), variances[:, None]
    m = (lam + r[:-1] * r[1:]) / (lam + r[:-1] ** 2)
    log_rho = 2 * (r[0].log() + m.log().sum(1)) - variances.log()
    return 0.5 * (log_rho.exp() - 1 - log_rho).sum()


def variances_of(subject: Subject) -> Float[Tensor, " d"]:
    """The principal variances of the free entries of a subject's samples; of those that are known, what they foretell
    of the rest is taken away first, for a walk is told them. Directions that vary by less than the subject's cleanest
    noise scale are left out: the relative entropy would count each as much as any other.
    """
    x, free = spread(subject.x), subject.free.flatten(1).bool()
    if bool((free != free[:1]).any()):
        raise ValueError("variances_of: the same entries have to be known in all samples")
    rest, told = x[:, free[0]], x[:, ~free[0]]
    if told.shape[1]:
        rest = rest - told @ torch.linalg.lstsq(told, rest, driver="gelsd").solution
    e = torch.linalg.svdvals(rest).square() / len(x)
    kept = e[e > subject.low**2]
    if not len(kept):
        raise ValueError(f"variances_of: nothing free varies by more than the noise scale {subject.low:.4g}")
    return kept


def tangent(variances: Float[Tensor, " d"], n: int, high: float) -> Tangent:
    """The tangent law whose gamma makes the relative entropy least, for n steps from the noise scale `high`."""
    logs = 0.5 * variances.double().log()
    tried = torch.linspace(float(logs.min()) - 1, float(logs.max()) + 1, 41, dtype=torch.float64)

    def loss(log_gamma: float) -> float:
        return float(gauss_kl(_tangent_scales(n, math.exp(log_gamma), high), variances.double()))

    at = int(torch.tensor([loss(float(g)) for g in tried]).argmin())
    low, top = float(tried[max(at - 1, 0)]), float(tried[min(at + 1, 40)])
    while top - low > 1e-8:  # golden sections
        a, b = top - GOLDEN * (top - low), low + GOLDEN * (top - low)
        low, top = (low, b) if loss(a) < loss(b) else (a, top)
    return Tangent(n, math.exp(0.5 * (low + top)), high)


def free_grid(variances: Float[Tensor, " d"], n: int, high: float) -> Fitted:
    """The n noise scales from `high` on that make the relative entropy least, each wherever it likes: the search begins
    at the tangent law's.
    """
    if n == 1:
        return Fitted((high,))
    begun = _tangent_scales(n, tangent(variances, n, high).gamma, high)
    w = (begun[:-1] / begun[1:]).log().log().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [w], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = gauss_kl(_falling(high, w.exp()), variances.double()).log()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return Fitted(tuple(_falling(high, w.detach().exp()).tolist()))


def _tangent_scales(n: int, gamma: float, high: float) -> Float[Tensor, " n"]:
    part = 1 - torch.arange(n, dtype=torch.float64) / n
    return gamma * (part * math.atan(high / gamma)).tan()


def _falling(high: float, falls: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    return high * torch.cat([falls.new_zeros(1), -falls.cumsum(0)]).exp()
