"""EDM's weighting."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kedge.fit.weightings.weighting import Weighting, snr


@dataclass(frozen=True)
class EDM(Weighting):
    """`lambda = (scale^2 + sigma_data^2) / (scale sigma_data)^2 = SNR + 1 / sigma_data^2`: one over c_out^2, which
    gives the network's own output the same weight at every level.

    Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, table 1.
    """

    sigma_data: float = 0.5

    def __call__(self, log_snr: Tensor) -> Tensor:
        """See the class."""
        return snr(log_snr) + self.sigma_data**-2
