"""The trigonometric path of TrigFlow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from kedge import elementary as el
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath


@dataclass(frozen=True)
class Trig(GaussianPath):
    """`x_t = cos(t) x + sin(t) sigma_data z`: data of std `sigma_data` keeps its variance, time is an angle.

    Lu and Song, "Simplifying, stabilizing and scaling continuous-time consistency models", ICLR 2025. The noise scale
    is `sigma_data tan(t)`; the path runs from `scale_min` to `scale_max` in it.
    """

    sigma_data: float = 1.0
    scale_min: float = 0.002
    scale_max: float = 80.0
    t_min: float = field(init=False)
    t_max: float = field(init=False)

    def __post_init__(self) -> None:
        if not (self.sigma_data > 0 and 0 < self.scale_min < self.scale_max < math.inf):
            raise ValueError(f"Trig: expected sigma_data > 0 and 0 < scale_min < scale_max, got {vars(self)}")
        object.__setattr__(self, "t_min", math.atan(self.scale_min / self.sigma_data))
        object.__setattr__(self, "t_max", math.atan(self.scale_max / self.sigma_data))

    def alpha(self, t: Level) -> Any:
        """`cos t`."""
        return el.cos(t)

    def sigma(self, t: Level) -> Any:
        """`sigma_data sin t`."""
        return self.sigma_data * el.sin(t)

    def d_alpha(self, t: Level) -> Any:
        """`-sin t`."""
        return -el.sin(t)

    def d_sigma(self, t: Level) -> Any:
        """`sigma_data cos t`."""
        return self.sigma_data * el.cos(t)

    def time_of(self, log_snr: Level) -> Any:
        """`arctan(exp(-log_snr / 2) / sigma_data)`."""
        return el.atan(el.exp(-0.5 * log_snr) / self.sigma_data)
