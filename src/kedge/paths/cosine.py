"""The cosine path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kedge import elementary as el
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath


@dataclass(frozen=True)
class Cosine(GaussianPath):
    """Variance preserving, `alpha = cos(theta(t)) / cos(theta(0))` with `theta(t) = pi/2 (t + offset) / (1 + offset)`.

    Nichol and Dhariwal, "Improved denoising diffusion probabilistic models", ICML 2021, eq. 17. It ends a little
    before time 1, where nothing would be left of the data.
    """

    offset: float = 0.008
    t_min: float = 1e-3
    t_max: float = 0.9946

    def __post_init__(self) -> None:
        if not (self.offset >= 0 and 0 < self.t_min < self.t_max < 1):
            raise ValueError(f"{self}: expected offset >= 0 and 0 < t_min < t_max < 1")

    @property
    def _rate(self) -> float:
        return 0.5 * math.pi / (1 + self.offset)

    @property
    def _theta_0(self) -> float:
        return self._rate * self.offset

    def alpha(self, t: Level) -> Any:
        """`cos(theta) / cos(theta_0)`."""
        return el.cos(self._rate * t + self._theta_0) / math.cos(self._theta_0)

    def sigma(self, t: Level) -> Any:
        """`sqrt(1 - alpha^2) = sqrt(sin(theta - theta_0) sin(theta + theta_0)) / cos(theta_0)`."""
        rise = self._rate * t
        return el.sqrt(el.sin(rise) * el.sin(rise + 2 * self._theta_0)) / math.cos(self._theta_0)

    def d_alpha(self, t: Level) -> Any:
        """`-theta' sin(theta) / cos(theta_0)`."""
        return -self._rate * el.sin(self._rate * t + self._theta_0) / math.cos(self._theta_0)

    def d_sigma(self, t: Level) -> Any:
        """`-alpha alpha' / sigma`."""
        return el.ratio(-self.alpha(t) * self.d_alpha(t), self.sigma(t))

    def time_of(self, log_snr: Level) -> Any:
        """From `sin^2(theta) = sin^2(theta_0) + sigma^2 cos^2(theta_0)` and `cos(theta) = alpha cos(theta_0)`, where
        `sigma^2 = sigmoid(-log_snr)`: the angle from both, since near the noise end the sine alone does not tell it.
        """
        variance, cosine_0 = el.exp(-el.softplus(log_snr)), math.cos(self._theta_0)
        sine = el.sqrt(math.sin(self._theta_0) ** 2 + variance * cosine_0**2)
        cosine = el.exp(-0.5 * el.softplus(-log_snr)) * cosine_0
        return el.clip(el.atan(el.ratio(sine, cosine)) - self._theta_0, 0.0, math.inf) / self._rate
