"""Problems with exact answers, to hold everything else to."""

from kedge.exact.mixture import GaussianMixture, MixtureDenoiser, Quadratic

__all__ = ["GaussianMixture", "MixtureDenoiser", "Quadratic"]
