"""How far the law of a walk is from the data, bounded by what its steps hold still.

Sabour, Fidler and Kreis, "Align your steps: optimizing sampling schedules in diffusion models", ICML 2024. A solver of
the reverse SDE that goes by `D_i(r)` between r_i and r_{i+1}, where the truth is `D(y_r, r)`, makes samples whose law
is, by Girsanov's theorem, at most

    KLUB = sum over i of int_{r_{i+1}}^{r_i} r^-3 E |D(y_r, r) - D_i(r)|^2 dr

from the right one in relative entropy. A first-order solver holds `D_i = D(y_{r_i}, r_i)`; one of second order goes by
the line in `ln r` through the two latest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kedge.distill.partition import least, nearest, swept
from kedge.distill.subject import Subject
from kedge.walk.grids import Fitted

Order = Literal[1, 2]


@dataclass(frozen=True, eq=False)
class Klub:
    """The bound of any grid among fine levels.

    All that the bound asks of the model is how its estimates at two levels of the same noising covary, so that they are
    measured once, and any grid of either order is then a matter of small sums.

    scales: of the fine levels, noisiest first
    gram:   `E <D_j, D_k>` over samples that are noised step by step, `y_j = y_k + sqrt(r_j^2 - r_k^2) z`
    """

    scales: list[float]
    gram: Float[Tensor, "k k"]

    @classmethod
    @torch.no_grad()
    def measured(cls, subject: Subject, levels: int = 96) -> Klub:
        """On the samples of a subject, one noising each: `levels + 1` evaluations a sample."""
        scales, path, free = subject.fine(levels, rho=20.0), subject.path, subject.free
        estimator = subject.estimator
        cond = estimator.prepare(subject.cond)
        y, low = subject.x, 0.0
        seen: list[Tensor] = []
        for k, r in reversed(list(enumerate(scales))):
            y = y + math.sqrt(r * r - low * low) * subject.noise(k)
            t, low = min(path.time_at(r), path.t_max), r
            x_t = path.alpha(t) * y
            if subject.known is not None and estimator.pinned == "clean":
                x_t = torch.where(subject.known, subject.x, x_t)
            found = estimator.estimate(x_t, t, cond).x
            assert isinstance(found, Tensor)
            seen.append(((found - subject.x) * free).flatten().double())
        D = torch.stack(seen[::-1])
        return cls(scales, D @ D.T / len(subject.x))

    @cached_property
    def _r(self) -> Float[Tensor, " k"]:
        return torch.tensor(self.scales, dtype=torch.float64)

    @cached_property
    def first(self) -> Float[Tensor, "k k"]:
        """The cost of a step from level i to level j that holds the estimate of i."""
        S = self.gram
        return torch.stack([self._integral(S.diagonal() - 2 * S[i] + S[i, i], i) for i in range(len(S))])

    def second(self, before: int, i: int, j: int) -> float:
        """The cost of a step from i to j that goes by the line through the estimates of `before` and i."""
        S, lam = self.gram, -self._r.log()
        a = (lam - lam[i]) / (lam[i] - lam[before])
        b = 1 + a
        v = S.diagonal() + b**2 * S[i, i] + a**2 * S[before, before]
        v = v - 2 * b * S[i] + 2 * a * S[before] - 2 * a * b * S[i, before]
        return float(self._integral(v, i)[j])

    def _integral(self, v: Tensor, i: int) -> Tensor:
        """Of `r^-3 v dr = r^-2 v d ln r` from level i on, down to each other one, by the trapezoid rule."""
        f = v.clamp(min=0) / self._r**2
        pieces = 0.5 * (f[1:] + f[:-1]) * (self._r[:-1] / self._r[1:]).log()
        total = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])
        return total - total[i]

    def bound(self, places: Sequence[int], order: Order = 1) -> float:
        """The KLUB of a grid, given by the places of its levels; a walk's first step is of first order."""
        steps = [float(self.first[places[0], places[1]])]
        for before, i, j in zip(places, places[1:], places[2:], strict=False):
            steps.append(float(self.first[i, j]) if order == 1 else self.second(before, i, j))
        return math.fsum(steps)

    def search(self, n: int, order: Order = 1, sweeps: int = 100) -> tuple[list[int], list[float]]:
        """The places of n + 1 levels by sweeps from EDM's, as the paper does it; and the bound after each sweep."""
        high, low = self.scales[0] ** (1 / 7), self.scales[-1] ** (1 / 7)
        begun = nearest(self.scales, [(high + i / n * (low - high)) ** 7 for i in range(n + 1)])
        if order == 2:  # whose bound has more valleys: from where the first order's search ended
            begun, _ = self.search(n, 1, sweeps)
        return swept(lambda places: self.bound(places, order), begun, sweeps)

    def best(self, n: int) -> list[int]:
        """The places whose first-order bound no others undercut: a sum over steps, so a program finds them, where
        sweeps may stop before.
        """
        return least(self.first, n)

    def grid(self, n: int, order: Order = 1) -> Fitted:
        """n steps that the search came to; the last goes to clean, where the search ended at the lowest level. The
        bound is not the divergence: where it is least (`best`), samples of few steps can be farther from the data.
        """
        places, _ = self.search(n, order)
        return Fitted(tuple(self.scales[k] for k in places[:-1]))
