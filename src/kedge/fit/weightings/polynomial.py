"""The variational weighting: a polynomial of the log noise scale, in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kedge.fit.weightings.weighting import Weighting

Basis = Literal["chebyshev", "hermite", "monomial"]
Regress = Literal["log", "gamma"]
Smooth = Literal["coefficients", "statistics"]

JUMP = 30.0
"""A batch whose errors are on average so many times what was expected, or so many times less, has jumped: the constant
term follows at once, and the rest as usual. Single errors may be large beside that: where modes are far apart the mean
error at a level is made of rare large ones, and a bound would bias the fit.
"""

FAR = 20.0
"""A single error above e^20 times what was expected counts as that much, so that no sum loses its digits."""


class Polynomial(nn.Module, Weighting):
    """`weight = e^-P(log scale)`, where the polynomial P approximates `log L`, the log of the mean error at a level.

    Of `J[u] = E[lambda L e^-u + u]` the minimum is `u = log lambda + log L`; lambda cancels in the weight, and every
    level's weighted loss is 1. P is fitted as training goes, by least squares in closed form: no network, no optimiser.

    "Fast and stable diffusion planning through variational adaptive weighting", 2025 (arXiv:2506.16688).

    Args:
        degree: of the polynomial. A degree is a limit: mixtures with components that are narrow beside their distance
            have a `log L` that degree 5 misses by .3 and more.
        basis: of the regression, on the standardised log scale: `"chebyshev"`, `"hermite"` or `"monomial"`.
        ridge: how firmly directions that a batch does not determine are held where they are, as a share of a sample.
        regress: `"gamma"` regresses the error itself with a log link, by one step a batch; this is J restricted to
            polynomials. `"log"` regresses the logs, as the paper does: by Jensen's inequality it comes out too low.
        smooth: average the batches' `"coefficients"`, as the paper does, or their sufficient `"statistics"` (recursive
            least squares with forgetting).
        decay: of that average, per batch; shorter while there are few batches.
        center, scale: mean and spread of the log scale, for conditioning; by default from the law of the levels.
        reach: the fit covers `center +- reach scale`, and is constant outside.
    """

    coefficients: Tensor
    gram: Tensor
    domain: Tensor
    batches: Tensor
    skipped: Tensor

    def __init__(
        self,
        degree: int = 5,
        basis: Basis = "chebyshev",
        ridge: float = 1e-4,
        regress: Regress = "gamma",
        smooth: Smooth = "statistics",
        decay: float = 0.99,
        center: float | None = None,
        scale: float | None = None,
        reach: float = 2.0,
    ) -> None:
        super().__init__()
        for name, value, options in (
            ("basis", basis, Basis),
            ("regress", regress, Regress),
            ("smooth", smooth, Smooth),
        ):
            if value not in get_args(options):
                raise ValueError(f"unknown {name}={value!r}: one of {', '.join(get_args(options))}")
        if degree < 0 or ridge <= 0 or not 0 <= decay < 1 or reach <= 0 or (scale is not None and scale <= 0):
            raise ValueError(
                "Polynomial: expected degree >= 0, ridge > 0, decay in [0, 1), scale > 0 and reach > 0, "
                f"got {degree=}, {ridge=}, {decay=}, {scale=}, {reach=}"
            )
        self.degree, self.basis, self.ridge, self.decay, self.reach = degree, basis, ridge, decay, reach
        self.regress, self.smooth = regress, smooth
        n = degree + 1
        zeros = {"coefficients": (n,), "gram": (n, n), "batches": (), "skipped": ()}
        for name, shape in zeros.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        given = [math.nan if value is None else value for value in (center, scale)]
        self.register_buffer("domain", torch.tensor(given, dtype=torch.float64))

    def forward(self, log_snr: Tensor) -> Tensor:
        """`e^-P`; 1 before the first batch."""
        if not self.batches:
            return torch.ones_like(log_snr)
        return (-self.log_error(log_snr)).exp().to(log_snr)

    def log_error(self, log_snr: Tensor) -> Tensor:
        """`P`, the fitted log of the mean error."""
        return self._features(self._position(log_snr)) @ self.coefficients

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Polynomial:
        """Moves with the module, but stays in double precision when the network changes its own."""
        kept = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self

    def cover(self, log_snr: Tensor) -> None:
        """Takes centre and scale of the log scale from these levels, unless they are known."""
        if bool(self.domain.isfinite().all()):
            return
        log_scale = -0.5 * log_snr.detach().double().flatten()
        log_scale = log_scale[log_scale.isfinite()]
        if not len(log_scale):
            return
        spread = log_scale.std(correction=0)
        found = torch.stack([log_scale.mean(), spread if spread > 1e-3 else torch.ones_like(spread)])
        self.domain.copy_(torch.where(self.domain.isfinite(), self.domain, found))

    @torch.no_grad()
    def update(self, log_snr: Tensor, error: Tensor) -> None:
        """One batch: errors that are not finite and positive are left out, and counted."""
        log_snr, error = log_snr.detach().double().flatten(), error.detach().double().flatten()
        self.cover(log_snr)
        position = self._position(log_snr, hold=False)
        usable = error.isfinite() & (error > 0) & position.isfinite()
        self.skipped += (~usable).sum()
        inside = usable & (position.abs() <= self.reach)
        if inside.any():
            self._regress(self._features(position[inside]), error[inside])

    def _regress(self, features: Tensor, error: Tensor) -> None:
        """With Phi the features, P = Phi c, and g = log L - P the gaps:

        gamma   r = e^g - 1,  h = r / g      (E[r] = 0 where P = log E[L], whatever h)
        log     r = g,        h = 1

        statistics     A <- mu A + (1 - mu) Phi'h Phi / B,  c <- c + (1 - mu) A^-1 Phi'r / B
        coefficients   c <- c + (1 - mu) (Phi'h Phi / B)^-1 Phi'r / B

        h is the slope of the chord from the gap to its closing, so no step goes further than the gaps. Fisher's h = 1
        answers a gap of 5 by a step of 147, and from above P comes down by no more than 1 - mu a batch.
        """
        first = not self.batches
        self.batches += 1
        rate = max(1 - self.decay, 1 / float(self.batches))  # a plain mean, until the window is full
        if first:
            self.coefficients[0] = error.log().mean()
        gap = error.log() - features @ self.coefficients
        residual, slope = gap, torch.ones_like(gap)
        if self.regress == "gamma" and not first:  # the first batch starts from its logs
            gap = self._follow(gap).clamp(max=FAR)
            residual = gap.expm1()
            slope = torch.where(gap.abs() > 1e-9, residual / gap, 1.0)
        gram, moment = (slope * features.mT) @ features / len(error), features.mT @ residual / len(error)
        if self.smooth == "coefficients":
            self.coefficients += rate * self._solve(gram, moment, float(len(error)))
            return
        self.gram.lerp_(gram, rate)
        self.coefficients += rate * self._solve(self.gram, moment, len(error) / rate)

    def _follow(self, gap: Tensor) -> Tensor:
        """`log L - P`, after the constant term has followed a jump."""
        shift = gap.logsumexp(0) - math.log(len(gap))  # the log of the mean of L e^-P: no overflow
        if shift.abs() < math.log(JUMP):
            return gap
        self.coefficients[0] += shift
        return gap - shift

    def _solve(self, gram: Tensor, moment: Tensor, seen: float) -> Tensor:
        """The change of the coefficients. The ridge is on the change: what a batch does not determine stays put. One
        more sample's worth of it keeps a few samples from swinging the fit where there are none.
        """
        return torch.linalg.solve(gram + (self.ridge + 1 / seen) * torch.eye(self.degree + 1).to(gram), moment)

    def _position(self, log_snr: Tensor, hold: bool = True) -> Tensor:
        """The standardised log scale, held within reach."""
        position = (-0.5 * log_snr.double() - self.domain[0]) / self.domain[1]
        return position.clamp(-self.reach, self.reach) if hold else position

    def _features(self, position: Tensor) -> Tensor:
        """`[..., degree + 1]` basis functions."""
        s = position / self.reach if self.basis == "chebyshev" else position
        columns = [torch.ones_like(s), s]
        for n in range(1, self.degree):
            if self.basis == "chebyshev":  # T_n+1 = 2 s T_n - T_n-1
                columns.append(2 * s * columns[n] - columns[n - 1])
            elif self.basis == "hermite":  # orthonormal under N(0, 1): He_n / sqrt(n!)
                columns.append((s * columns[n] - math.sqrt(n) * columns[n - 1]) / math.sqrt(n + 1))
            else:
                columns.append(s * columns[n])
        return torch.stack(columns[: self.degree + 1], -1)
