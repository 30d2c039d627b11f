"""The linear variance-preserving path of DDPM and score SDEs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kedge import elementary as el
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath


@dataclass(frozen=True)
class VariancePreserving(GaussianPath):
    """`alpha^2 + sigma^2 = 1` with noise at the rate `beta(t) = beta_min + t (beta_max - beta_min)`.

        log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2

    Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021, eq. 32-33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.beta_min <= self.beta_max and 0 < self.t_min < self.t_max):
            raise ValueError(f"{self}: expected 0 < beta_min <= beta_max and 0 < t_min < t_max")

    def _log_alpha(self, t: Level) -> Any:
        return -0.25 * t * t * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def _beta(self, t: Level) -> Any:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def alpha(self, t: Level) -> Any:
        """`exp(log alpha)`."""
        return el.exp(self._log_alpha(t))

    def sigma(self, t: Level) -> Any:
        """`sqrt(1 - alpha^2)`, without cancellation near the data."""
        return el.sqrt(-el.expm1(2 * self._log_alpha(t)))

    def d_alpha(self, t: Level) -> Any:
        """`-beta alpha / 2`."""
        return -0.5 * self._beta(t) * self.alpha(t)

    def d_sigma(self, t: Level) -> Any:
        """`beta alpha^2 / (2 sigma)`; infinite at time 0."""
        return el.ratio(0.5 * self._beta(t) * self.alpha(t) ** 2, self.sigma(t))

    def log_snr(self, t: Level) -> Any:
        """`2 log alpha - log(1 - alpha^2)`."""
        log_alpha = self._log_alpha(t)
        return 2 * log_alpha - el.log(-el.expm1(2 * log_alpha))

    def time_of(self, log_snr: Level) -> Any:
        """The root of the quadratic `log alpha(t) = -softplus(-log_snr) / 2`, in the form that does not cancel."""
        c = el.softplus(-log_snr)  # -2 log alpha
        return 2 * c / (self.beta_min + el.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * c))
