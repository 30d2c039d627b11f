"""What an error counts at each level. A file a weighting."""

from kedge.fit.weightings.clamped import Clamped
from kedge.fit.weightings.edm import EDM
from kedge.fit.weightings.learned_head import LearnedHead
from kedge.fit.weightings.min_snr import MinSNR
from kedge.fit.weightings.polynomial import Polynomial
from kedge.fit.weightings.uniform import Uniform
from kedge.fit.weightings.weighting import Weighting

__all__ = [
    "EDM",
    "Clamped",
    "LearnedHead",
    "MinSNR",
    "Polynomial",
    "Uniform",
    "Weighting",
]
