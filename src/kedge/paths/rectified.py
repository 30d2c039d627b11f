"""The straight path of rectified flow and flow matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kedge import elementary as el
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath


@dataclass(frozen=True)
class Rectified(GaussianPath):
    """`x_t = (1 - t) x + t z`, whose velocity is `z - x`.

    Liu et al., "Flow straight and fast", ICLR 2023; Lipman et al., "Flow matching for generative modeling", ICLR 2023
    (both count time the other way). It stops a little short of time 1, where the log-SNR would be infinite.
    """

    t_min: float = 1e-3
    t_max: float = 1 - 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.t_min < self.t_max < 1:
            raise ValueError(f"{self}: expected 0 < t_min < t_max < 1")

    def alpha(self, t: Level) -> Any:
        """`1 - t`."""
        return 1 - t

    def sigma(self, t: Level) -> Any:
        """t."""
        return t

    def d_alpha(self, t: Level) -> Any:
        """-1."""
        return t * 0 - 1

    def d_sigma(self, t: Level) -> Any:
        """1."""
        return t * 0 + 1

    def time_of(self, log_snr: Level) -> Any:
        """`1 / (1 + exp(log_snr / 2))`."""
        return el.exp(-el.softplus(0.5 * log_snr))
