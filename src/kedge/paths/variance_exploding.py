"""The variance-exploding path in EDM's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kedge import elementary as el
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath


@dataclass(frozen=True)
class VarianceExploding(GaussianPath):
    """`x_t = x + t z`: alpha is 1 and time is the noise scale itself.

    Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, table 1.
    """

    t_min: float = 0.002
    t_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.t_min < self.t_max:
            raise ValueError(f"{self}: expected 0 < t_min < t_max")

    def alpha(self, t: Level) -> Any:
        """1."""
        return t * 0 + 1

    def sigma(self, t: Level) -> Any:
        """t."""
        return t

    def d_alpha(self, t: Level) -> Any:
        """0."""
        return t * 0

    def d_sigma(self, t: Level) -> Any:
        """1."""
        return t * 0 + 1

    def time_of(self, log_snr: Level) -> Any:
        """`exp(-log_snr / 2)`."""
        return el.exp(-0.5 * log_snr)
