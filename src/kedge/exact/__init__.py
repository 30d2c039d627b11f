"""Problems with exact answers, to hold everything else to."""

from kedge.exact.corrected import Corrected
from kedge.exact.linear import LinearMixture, PhaseMixture
from kedge.exact.mixture import GaussianMixture, MixtureDenoiser, Quadratic
from kedge.exact.pinned import PinnedGaussian

__all__ = [
    "Corrected",
    "GaussianMixture",
    "LinearMixture",
    "MixtureDenoiser",
    "PhaseMixture",
    "PinnedGaussian",
    "Quadratic",
]
