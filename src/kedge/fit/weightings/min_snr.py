"""A bounded weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kedge.fit.weightings.weighting import Weighting, snr


@dataclass(frozen=True)
class MinSNR(Weighting):
    """`min(sigma_data^2 SNR, gamma)`: levels close to the data do not dominate.

    Hang et al., "Efficient diffusion training via min-SNR weighting strategy", ICCV 2023, section 3.4.
    """

    gamma: float = 5.0
    sigma_data: float = 1.0

    def __call__(self, log_snr: Tensor) -> Tensor:
        """See the class."""
        return (self.sigma_data**2 * snr(log_snr)).clamp(max=self.gamma)
