"""A path of which a table is known: the discrete diffusion of released models."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kedge import elementary as el
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath


@dataclass(frozen=True)
class Tabled(GaussianPath):
    """Variance preserving, with its log-SNR given at the times 1/N, 2/N, ..., 1; between them it is linear in time.

    What is trained on N discrete steps hears step k = N t - 1. Before the first of them, where such a model knows
    nothing, sigma falls to 0 evenly.
    """

    log_snrs: tuple[float, ...]
    t_min: float = field(init=False)
    """The first step."""
    t_max: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        if len(self.log_snrs) < 2 or not all(math.isfinite(value) for value in self.log_snrs):
            raise ValueError("a table of a path has two entries or more, all of them finite")
        if any(a <= b for a, b in zip(self.log_snrs, self.log_snrs[1:], strict=False)):
            raise ValueError("the log-SNR of a path falls from one entry of its table to the next")
        object.__setattr__(self, "t_min", 1 / self.n)

    @classmethod
    def of(cls, alphas_cumprod: Sequence[float] | Tensor) -> Tabled:
        """From `prod_s (1 - beta_s) = alpha_t^2`, as schedulers of discrete diffusions keep it."""
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64).cpu()
        if table.ndim != 1 or not ((table > 0) & (table < 1)).all():
            raise ValueError(
                "alphas_cumprod lie between 0 and 1: a schedule that ends in pure noise (zero terminal SNR) has no "
                "log-SNR there; leave its last entry out"
            )
        return cls(tuple((table.log() - torch.log1p(-table)).tolist()))

    @classmethod
    def of_betas(cls, betas: Sequence[float] | Tensor) -> Tabled:
        """From the variances `beta_t` of the steps, `q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t)`."""
        return cls.of((1 - torch.as_tensor(betas, dtype=torch.float64)).cumprod(0))

    @classmethod
    def linear(cls, n: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tabled:
        """Betas in even steps: Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020."""
        return cls.of_betas(torch.linspace(first, last, n, dtype=torch.float64))

    @classmethod
    def cosine(cls, n: int = 1000, offset: float = 0.008, most: float = 0.999) -> Tabled:
        """`prod (1 - beta) = cos^2((t + offset) / (1 + offset) pi / 2)`, over its value at 0, with betas of at most
        `most`: Nichol and Dhariwal, "Improved denoising diffusion probabilistic models", ICML 2021, eq. 17.
        """
        t = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        f = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
        return cls.of_betas((1 - f[1:] / f[:-1]).clamp(max=most))

    @property
    def n(self) -> int:
        """Steps of the table."""
        return len(self.log_snrs)

    @cached_property
    def _table(self) -> Tensor:
        return torch.tensor(self.log_snrs, dtype=torch.float64)

    @cached_property
    def _rising(self) -> list[float]:
        return list(reversed(self.log_snrs))

    @property
    def _first(self) -> float:
        """sigma at the first step."""
        return math.exp(-0.5 * float(el.softplus(self.log_snrs[0])))

    def alpha(self, t: Level) -> Any:
        """`sqrt(sigmoid(log_snr))`; before the first step `sqrt(1 - sigma^2)`."""
        sigma = self._first * self.n * t
        early = el.sqrt(el.clip(1 - sigma * sigma, 0.0, 1.0))
        return el.where(t < self.t_min, early, el.exp(-0.5 * el.softplus(-self._between(t)[0])))

    def sigma(self, t: Level) -> Any:
        """`sqrt(sigmoid(-log_snr))`; before the first step even."""
        return el.where(t < self.t_min, self._first * self.n * t, el.exp(-0.5 * el.softplus(self._between(t)[0])))

    def d_alpha(self, t: Level) -> Any:
        """`alpha sigma^2 log_snr' / 2`; before the first step `-sigma sigma' / alpha`."""
        alpha, sigma, rate = self.alpha(t), self.sigma(t), self._first * self.n
        return el.where(t < self.t_min, -sigma * rate / alpha, 0.5 * alpha * sigma * sigma * self._between(t)[1])

    def d_sigma(self, t: Level) -> Any:
        """`-sigma alpha^2 log_snr' / 2`; before the first step its rate."""
        alpha, sigma, rate = self.alpha(t), self.sigma(t), self._first * self.n
        late = -0.5 * sigma * alpha * alpha * self._between(t)[1]
        return el.where(t < self.t_min, rate + 0 * sigma, late)

    def time_of(self, log_snr: Level) -> Any:
        """The table backwards; the end where the log-SNR is below all of it."""
        early = el.exp(-0.5 * el.softplus(log_snr)) / (self._first * self.n)
        if isinstance(log_snr, Tensor):
            table = self._table.to(log_snr)
            k = torch.searchsorted(table.flip(0).contiguous(), log_snr.detach().contiguous(), right=True)
            k = (self.n - 1 - k).clamp(0, self.n - 2)
            here, after = table[k], table[k + 1]
        else:
            k = min(max(self.n - 1 - bisect_right(self._rising, log_snr), 0), self.n - 2)
            here, after = self.log_snrs[k], self.log_snrs[k + 1]
        late = (k + 1 + (here - log_snr) / (here - after)) / self.n
        return el.where(log_snr > self.log_snrs[0], early, el.clip(late, 0.0, self.t_max))

    def log_snr(self, t: Level) -> Any:
        """From the table; before its first step from alpha and sigma."""
        return el.where(t < self.t_min, super().log_snr(t), self._between(t)[0])

    def step_of(self, t: Level) -> Any:
        """`k = N t - 1`, what a model of N discrete steps hears; whole where it is so up to rounding."""
        step = t * self.n - 1
        if isinstance(step, Tensor):
            whole = step.round()
            return torch.where((step - whole).abs() < 1e-2, whole, step)
        return round(step) if abs(step - round(step)) < 1e-2 else step

    def _between(self, t: Level) -> tuple[Any, Any]:
        """The log-SNR and its derivative; held at the first entry's line before it."""
        step: Any = t * self.n - 1
        if isinstance(t, Tensor):
            table, k = self._table.to(t), step.detach().floor().long().clamp(0, self.n - 2)
            here, after = table[k], table[k + 1]
        else:
            k = min(max(math.floor(step), 0), self.n - 2)
            here, after = self.log_snrs[k], self.log_snrs[k + 1]
        return here + (step - k) * (after - here), self.n * (after - here)
