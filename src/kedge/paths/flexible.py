"""Forward processes that are learned: how fast each direction becomes noise, and how directions turn on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kedge.elementary import Level
from kedge.paths.linear import LinearPath
from kedge.paths.variance_preserving import VariancePreserving


@dataclass(frozen=True, eq=False)
class Flexible(LinearPath):
    """`dx = -beta / 2 (R + 2 omega) x dt + sqrt(beta R) dW`, with R symmetric and positive and omega antisymmetric.

    Whatever they are, `N(0, I)` is where it ends. With `B = int beta dt`,

        x_t | x ~ N(M x, I - M M^T),      M = exp(-B / 2 (R + 2 omega))

    R = I and omega = 0 make it variance preserving. Du et al., "A flexible diffusion model", ICML 2023, with the metric
    and the symplectic form constant in x.

    Args:
        R: `[n, n]`, over the last axis of a state.
        omega: `[n, n]`.
        base: whose beta it takes, and whose log-SNR stands for the whole.
    """

    R: Tensor
    omega: Tensor
    base: VariancePreserving = field(default_factory=VariancePreserving)
    t_min: float = field(init=False)
    t_max: float = field(init=False)

    def __post_init__(self) -> None:
        R, omega = self.R.double(), self.omega.double()
        if R.ndim != 2 or R.shape[0] != R.shape[1] or R.shape != omega.shape:
            raise ValueError(
                f"Flexible: R and omega are square and alike, got {list(self.R.shape)}, {list(self.omega.shape)}"
            )
        if not torch.allclose(R, R.mT) or not bool((torch.linalg.eigvalsh(R.detach()) > 0).all()):
            raise ValueError("Flexible: R must be symmetric with positive eigenvalues")
        if not torch.allclose(omega, -omega.mT):
            raise ValueError("Flexible: omega must be antisymmetric")
        for name, value in {"R": R, "omega": omega, "t_min": self.base.t_min, "t_max": self.base.t_max}.items():
            object.__setattr__(self, name, value)

    def _B(self, t: Level) -> Tensor:
        """`int_0^t beta = -2 log alpha`, as `[*t, 1, 1]`."""
        return -2 * self.base.alpha(torch.as_tensor(t, dtype=torch.float64)).log()[..., None, None]

    def _beta(self, t: Level) -> Tensor:
        u = torch.as_tensor(t, dtype=torch.float64)
        return (-2 * self.base.d_alpha(u) / self.base.alpha(u))[..., None, None]

    @property
    def _drift(self) -> Tensor:
        """`(R + 2 omega) / 2`."""
        return 0.5 * self.R + self.omega

    def M(self, t: Level) -> Tensor:
        """`exp(-B (R + 2 omega) / 2)`."""
        return torch.matrix_exp(-self._B(t) * self._drift)

    def d_M(self, t: Level) -> Tensor:
        """`-beta (R + 2 omega) M / 2`."""
        return -self._beta(t) * self._drift @ self.M(t)

    def covariance(self, t: Level) -> Tensor:
        """`I - M M^T`."""
        M = self.M(t)
        return torch.eye(M.shape[-1], dtype=torch.float64) - M @ M.mT

    def flow(self, t: Level) -> Tensor:
        """`-beta (R + 2 omega) / 2 + beta R C^-1 / 2`."""
        pull = torch.linalg.solve(self.covariance(t), self.R.expand_as(self.covariance(t))).mT
        return self._beta(t) * (0.5 * pull - self._drift)

    def kept(self, t: float, s: float) -> Tensor:
        """`C_s F^T C_t^-1`, with `x_t = F x_s + noise` and `F = exp(-(B_t - B_s) (R + 2 omega) / 2)`."""
        F = torch.matrix_exp(-(self._B(t) - self._B(s)) * self._drift)
        return torch.linalg.solve(self.covariance(t), F @ self.covariance(s)).mT

    def log_snr(self, t: Level) -> Any:
        """The base's."""
        return self.base.log_snr(t)

    def time_of(self, log_snr: Level) -> Any:
        """The base's."""
        return self.base.time_of(log_snr)


class LearnedFlexible(nn.Module):
    """A `Flexible` path that a bound is trained on, `R = n exp(S) / tr exp(S)` with S symmetric and `omega = A - A^T`:
    any choice of the parameters is one of the family, and the mean rate of noise is that of the base.
    """

    def __init__(self, n: int, base: VariancePreserving | None = None, turns: bool = True) -> None:
        super().__init__()
        self.S = nn.Parameter(torch.zeros(n, n, dtype=torch.float64))
        self.A = nn.Parameter(torch.zeros(n, n, dtype=torch.float64), requires_grad=turns)
        self.base = VariancePreserving() if base is None else base

    @property
    def path(self) -> Flexible:
        """With gradients to the parameters."""
        grown = torch.matrix_exp(0.5 * (self.S + self.S.mT))
        R = len(grown) * grown / grown.diagonal().sum()
        return Flexible(0.5 * (R + R.mT), self.A - self.A.mT, self.base)
