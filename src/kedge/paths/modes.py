"""Functions as modes: noise that has a finite size at any resolution, and entries that go at a pace of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kedge import elementary as el
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath


@dataclass(frozen=True, eq=False)
class EntryPace:
    """How the levels of entries follow one level: where the whole stands at alpha, entry k stands at `alpha^rate_k`.

    On a variance-preserving path that is the process `dx_k = -rate_k beta / 2 x_k dt + sqrt(rate_k beta) dW_k`, whose
    fast entries are noise when slow ones are hardly touched. What comes of it are levels of entries, so every solver
    that takes those walks it: `grids.Paced` and `proposals.Paced` make them. Rates are 1 or more: at the noise end an
    entry that is noise already waits.

    Args:
        rate: of each entry, in their shape.
    """

    rate: Tensor

    def __post_init__(self) -> None:
        if not bool((self.rate.detach() >= 1).all()):
            raise ValueError("EntryPace: rates are 1 or more; the slowest entry gives the time, and its rate is 1")

    def times(self, path: GaussianPath, t: Level) -> Tensor:
        """`[*t, *entries]`. With `alpha^2 / (alpha^2 + sigma^2) = sigmoid(log_snr)` to the power of the rate,

        log_snr_k = -log(exp(rate_k softplus(-log_snr)) - 1)
        """
        rate = self.rate.double()
        u = torch.as_tensor(t, dtype=torch.float64).reshape(*torch.as_tensor(t).shape, *(1,) * rate.ndim)
        lost = (rate * el.softplus(-path.log_snr(u))).clamp(max=700.0)
        paced = path.time_of(-torch.expm1(lost).log()).clamp(max=path.t_max)
        return torch.where(u == 0, 0.0, paced)


@dataclass(frozen=True, eq=False)
class CosineModes:
    """Functions on [0, 1] by their coefficients in `1, sqrt(2) cos(pi k x)`, in units of a noise spectrum C_k.

    The coefficient `int f phi_k dx` of a function does not depend on how finely it is sampled, and noise whose spectrum
    has a finite sum is a function too. A path on these entries is then the same process at every resolution: its score,
    in units of the noise, is the one that is preconditioned by the covariance of the noise. Franzese et al.,
    "Continuous-time functional diffusion processes", NeurIPS 2023.

    Args:
        spectrum: C_k, the variance of the noise in each mode, `[K]`.
    """

    spectrum: Tensor

    def __post_init__(self) -> None:
        if self.spectrum.ndim != 1 or not bool((self.spectrum > 0).all()):
            raise ValueError("CosineModes: the spectrum has a positive variance for each mode, [K]")

    @classmethod
    def power(cls, modes: int, decay: float = 2.0) -> CosineModes:
        """`C_k = (1 + k)^-decay`. Its sum is finite for a decay above 1."""
        if decay <= 1:
            raise ValueError(f"a spectrum (1 + k)^-{decay:g} has no finite sum: the decay is above 1")
        return cls((1.0 + torch.arange(modes, dtype=torch.float64)) ** -decay)

    def of(self, f: Tensor) -> Tensor:
        """`[..., n]` values at `x_i = (i + 1/2) / n` as `[..., K]` coefficients, by the midpoint rule: exact up to
        mode n - 1, so n is K or more.
        """
        n, K = f.shape[-1], len(self.spectrum)
        if n < K:
            raise ValueError(f"{n} points do not tell {K} modes: give as many points, or fewer modes")
        phi = self._phi((torch.arange(n, dtype=torch.float64) + 0.5) / n).to(f)
        return f @ phi / n / self.spectrum.sqrt().to(f)

    def at(self, y: Tensor, points: int | Sequence[float] | Tensor) -> Tensor:
        """The function at so many midpoints, or at any points: `sum_k y_k sqrt(C_k) phi_k(x)`."""
        if isinstance(points, int):
            points = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        phi = self._phi(torch.as_tensor(points, dtype=torch.float64)).to(y)
        return y * self.spectrum.sqrt().to(y) @ phi.mT

    def _phi(self, x: Tensor) -> Tensor:
        """`[n, K]`."""
        phi = math.sqrt(2) * torch.cos(math.pi * x[:, None] * torch.arange(len(self.spectrum), dtype=torch.float64))
        phi[:, 0] = 1.0
        return phi
