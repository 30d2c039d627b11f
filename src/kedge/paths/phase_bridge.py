"""Bridges in phase space: positions that a velocity carries from noise to data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.elementary import Level
from kedge.paths.linear import LinearPath, bisected


@dataclass(frozen=True)
class PhaseBridge(LinearPath):
    """The field `"x"` is a position and `"v"` its velocity. With u = 1 - t running from noise to data,

        dx = v du,      dv = 4 / t ((x_hat - x) / t - v) du + p t dW

    from `N(0, [[1, -k], [-k, 1]])` at t = 1: the acceleration is that of the stochastic optimal control that ends in
    x_hat with the least effort. Chen et al., "Generative modeling with phase stochastic bridges", ICLR 2024.

    Given x the homogeneous equation has the solutions t and t^4, `W = [[t, t^4], [-1, -4 t^3]]`, so that

        M = (1 - 4 t / 3 + t^4 / 3,  4 (1 - t^3) / 3)
        C = W [W_1^-1 C_1 W_1^-T + p^2 / 27 [[1 - t^3, 3 log t], [3 log t, t^-3 - 1]]] W^T

    The estimate of a denoiser has both fields, of which only `"x"` counts.

    Args:
        p: how strong the noise is.
        k: how far a first velocity leans against its position.
    """

    p: float = 3.0
    k: float = 0.2
    t_min: float = 1e-3
    t_max: float = 0.999

    def __post_init__(self) -> None:
        if not (self.p > 0 and -1 < self.k < 1 and 0 < self.t_min < self.t_max < 1):
            raise ValueError(f"{self}: expected p > 0, -1 < k < 1 and 0 < t_min < t_max < 1")

    def M(self, t: Level) -> Tensor:
        """See the class; the column of the velocity is 0."""
        t = _double(t)
        return _columns(1 - 4 * t / 3 + t**4 / 3, 4 * (1 - t**3) / 3)

    def d_M(self, t: Level) -> Tensor:
        """Its derivative."""
        t = _double(t)
        return _columns(-4 * (1 - t**3) / 3, -4 * t**2)

    def covariance(self, t: Level) -> Tensor:
        """See the class."""
        t = _double(t)
        first = torch.tensor([[1.0, -self.k], [-self.k, 1.0]], dtype=torch.float64)
        to = torch.linalg.inv(_solutions(torch.ones((), dtype=torch.float64)))
        W = _solutions(t)
        return W @ (to @ first @ to.mT + self._gathered(t, torch.ones_like(t))) @ W.mT

    def _gathered(self, s: Tensor, t: Tensor) -> Tensor:
        """`int_s^t p^2 w^2 q q^T dw` with `q = W^-1 (0, 1) = (1 / 3, -1 / (3 w^3))`."""
        cross = -3 * (t.log() - s.log())
        rows = torch.stack([t**3 - s**3, cross, cross, s**-3 - t**-3], -1)
        return self.p**2 / 27 * rows.reshape(*s.shape, 2, 2)

    def flow(self, t: Level) -> Tensor:
        """In the direction of t, `-(F + G G^T C^-1 / 2)`, with F the homogeneous part above and `G = (0, p t)`."""
        t = _double(t)
        zero = torch.zeros_like(t)
        F = torch.stack([zero, zero + 1, -4 / t**2, -4 / t], -1).reshape(*t.shape, 2, 2)
        noise = torch.stack([zero, zero, zero, (self.p * t) ** 2], -1).reshape(*t.shape, 2, 2)
        return -F - 0.5 * torch.linalg.solve(self.covariance(t), noise).mT

    def kept(self, t: float, s: float) -> Tensor:
        """`W_s W_t^-1`: given x the bridge goes on from where it is."""
        return torch.linalg.solve(_solutions(_double(t)).mT, _solutions(_double(s)).mT).mT

    def log_snr(self, t: Level) -> Any:
        """`log M^T C^-1 M`: what position and velocity tell of x together."""
        u = _double(t)
        M = self.M(u)[..., :1]
        value = (M.mT @ torch.linalg.solve(self.covariance(u), M))[..., 0, 0].log()
        return value if isinstance(t, Tensor) else float(value)

    def time_of(self, log_snr: Level) -> Any:
        """By bisection."""
        return bisected(self.log_snr, log_snr, 1e-5 * self.t_min, self.t_max)


def _double(t: Level) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64)


def _columns(x: Tensor, v: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return torch.stack([x, zero, v, zero], -1).reshape(*x.shape, 2, 2)


def _solutions(t: Tensor) -> Tensor:
    """W."""
    return torch.stack([t, t**4, -torch.ones_like(t), -4 * t**3], -1).reshape(*t.shape, 2, 2)
