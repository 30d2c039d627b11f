"""The geometric path between two Gaussians whose entries are independent, with all that is known of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from kedge.exact import GaussianMixture

f64 = torch.float64


@dataclass(frozen=True)
class GaussianPath:
    """From `N(0, start)` to `e^shift N(mean, variance)`, entry by entry."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]
    start: float = 1.0
    shift: float = 0.0

    @property
    def first(self) -> GaussianMixture:
        return GaussianMixture([1.0], torch.zeros(1, len(self.mean), dtype=f64), [self.start])

    @property
    def last(self) -> GaussianMixture:
        return GaussianMixture([1.0], torch.tensor([self.mean], dtype=f64), torch.tensor([self.variance], dtype=f64))

    def log_target(self, x: Tensor) -> Tensor:
        return self.last.log_prob(x) + self.shift

    def law(self, b: float) -> tuple[np.ndarray, np.ndarray]:
        """The means and variances of pi_b."""
        m, v = np.array(self.mean), np.array(self.variance)
        precision = (1 - b) / self.start + b / v
        return b * m / v / precision, 1 / precision

    def divergence(self, b: float) -> float:
        """`KL(pi_b || pi_1)`."""
        (m, v), (m1, v1) = self.law(b), (np.array(self.mean), np.array(self.variance))
        return float(0.5 * (v / v1 + (m - m1) ** 2 / v1 - 1 - np.log(v / v1)).sum())

    def variance_of_log_ratio(self, b: float) -> float:
        """`Var_b[log gamma - log pi_0]`: of `a x^2 / 2 + c x` under `N(m, v)`, `a^2 v^2 / 2 + (a m + c)^2 v`."""
        m, v = self.law(b)
        a, c = 1 / self.start - 1 / np.array(self.variance), np.array(self.mean) / np.array(self.variance)
        return float((0.5 * a**2 * v**2 + (a * m + c) ** 2 * v).sum())

    def constant_rate(self, steps: int) -> np.ndarray:
        """b after 0, 1, ..., T - 1 of T steps: the solution of `db / dk = KL_0 / (T (1 - b) Var_b)`."""
        c = self.divergence(0.0) / steps

        def slope(k: float, b: np.ndarray) -> list[float]:
            return [c / ((1 - b[0]) * self.variance_of_log_ratio(b[0]))]

        k = np.arange(steps)
        return solve_ivp(slope, (0, steps - 1), [0.0], t_eval=k, rtol=1e-10, atol=1e-13).y[0]
