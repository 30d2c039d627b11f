"""A critically damped path: the mean falls as a particle with momentum does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kedge import elementary as el
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath
from kedge.paths.variance_exploding import VarianceExploding


@dataclass(frozen=True)
class Damped(GaussianPath):
    """The noise scales of another path, under the mean of an oscillator that is critically damped:

        alpha = (1 + B) e^-B,      sigma = alpha scale(t),      B = m (beta_min r + beta_d r^2 / 2)

    with `r = (t - t_min) / (t_max - t_min)` and `scale = sigma / alpha` of the base. At a constant rate b, `B = b t`
    and alpha solves `s'' + 2 b s' + b^2 s = 0` from rest at 1. Wu et al., "Fast diffusion model", 2023.

    Solvers in log-SNR or in the noise scale give what they give on the base. What changes is what a network hears that
    is given x_t as it is (`predict="edm_plain"`), and the steps of solvers in the path's own time.
    """

    base: GaussianPath = field(default_factory=VarianceExploding)
    beta_min: float = 0.1
    beta_d: float = 19.9
    m: float = 1.0
    t_min: float = field(init=False)
    t_max: float = field(init=False)

    def __post_init__(self) -> None:
        if not (self.beta_min >= 0 and self.beta_d >= 0 and self.m > 0):
            raise ValueError(f"{self}: expected beta_min >= 0, beta_d >= 0 and m > 0")
        object.__setattr__(self, "t_min", self.base.t_min)
        object.__setattr__(self, "t_max", self.base.t_max)

    def _r(self, t: Level) -> Any:
        return el.clip((t - self.t_min) / (self.t_max - self.t_min), 0.0, 1.0)

    def _B(self, t: Level) -> Any:
        r = self._r(t)
        return self.m * (self.beta_min * r + 0.5 * self.beta_d * r * r)

    def alpha(self, t: Level) -> Any:
        """`(1 + B) e^-B`."""
        B = self._B(t)
        return (1 + B) * el.exp(-B)

    def sigma(self, t: Level) -> Any:
        """`alpha scale`."""
        return self.alpha(t) * self.base.noise_scale(t)

    def d_alpha(self, t: Level) -> Any:
        """`-B B' e^-B`; 0 before t_min, where B is."""
        B = self._B(t)
        rate = self.m * (self.beta_min + self.beta_d * self._r(t)) / (self.t_max - self.t_min)
        return -B * rate * el.exp(-B)

    def d_sigma(self, t: Level) -> Any:
        """`alpha' scale + alpha (sigma' alpha - sigma alpha') / alpha^2`, the last of the base."""
        a, s = self.base.alpha(t), self.base.sigma(t)
        slope = el.ratio(self.base.d_sigma(t) * a - s * self.base.d_alpha(t), a * a)
        return self.d_alpha(t) * self.base.noise_scale(t) + self.alpha(t) * slope

    def log_snr(self, t: Level) -> Any:
        """The base's."""
        return self.base.log_snr(t)

    def time_of(self, log_snr: Level) -> Any:
        """The base's."""
        return self.base.time_of(log_snr)
