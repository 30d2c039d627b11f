"""From a point to the data: the stochastic interpolant whose noise end is no noise but one known point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kedge import elementary as el
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath

NEWTON = 40
"""Steps that find a time; each squares the error once it is small, and the function is nearly a line."""


@dataclass(frozen=True)
class FromPoint(GaussianPath):
    """`x_t = (1 - t)^p x + t W_{1 - t}` with a Brownian motion W: alpha and sigma are both 0 at time 1.

        alpha = (1 - t)^p,      sigma = t sqrt(1 - t)

    The state is counted from the point. A point that is left only gradually, `a(t) x_0`, is the same path, for what it
    adds is known: let the denoiser add it, or hear x_0 as a condition.

    `DDPM` samples the Follmer process: of all diffusions with these marginals the one whose law an error of the
    estimate moves least. `FreeSDE` has the others. Chen et al., "Probabilistic forecasting with stochastic interpolants
    and Follmer processes", ICML 2024; "Variational optimality of Follmer processes in generative diffusions", 2026.
    """

    p: float = 1.0
    t_min: float = 1e-3
    t_max: float = 1 - 1e-4

    def __post_init__(self) -> None:
        if not (self.p > 0.5 and 0 < self.t_min < self.t_max < 1):
            raise ValueError(f"{self}: expected p > 1/2 and 0 < t_min < t_max < 1")

    def alpha(self, t: Level) -> Any:
        """`(1 - t)^p`."""
        return (1 - t) ** self.p

    def sigma(self, t: Level) -> Any:
        """`t sqrt(1 - t)`."""
        return t * el.sqrt(1 - t)

    def d_alpha(self, t: Level) -> Any:
        """`-p (1 - t)^(p - 1)`."""
        return -self.p * (1 - t) ** (self.p - 1)

    def d_sigma(self, t: Level) -> Any:
        """`(1 - 3 t / 2) / sqrt(1 - t)`."""
        return (1 - 1.5 * t) / el.sqrt(1 - t)

    def log_snr(self, t: Level) -> Any:
        """`(2 p - 1) log(1 - t) - 2 log t`."""
        return (2 * self.p - 1) * el.log(1 - t) - 2 * el.log(t)

    def time_of(self, log_snr: Level) -> Any:
        """Newton's method in `y = logit t`, where the log-SNR is `-2 y - (2 p - 3) softplus(y)`."""
        q = 2 * self.p - 3
        y = -0.5 * el.clip(log_snr, -1400.0, 1400.0)
        target = -2 * y
        for _ in range(NEWTON):
            rest = -2 * y - q * el.softplus(y) - target
            y = y + rest / (2 + q * el.exp(-el.softplus(-y)))
        return el.exp(-el.softplus(-y))

    def own_noise(self, t: Level, s: Level) -> Any:
        """`int g^2 / (2 sigma^2)` from t down to s for the noise that the interpolant itself has, `g = t`: see
        `FreeSDE`.
        """
        return 0.5 * el.log(el.ratio(1 - s, 1 - t))
