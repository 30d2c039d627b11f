"""At which levels a denoiser is trained. A file a law."""

from kedge.fit.proposals.log_normal import LogNormal
from kedge.fit.proposals.logit_normal import LogitNormal
from kedge.fit.proposals.paced import PacedLevels
from kedge.fit.proposals.uniform import Uniform

__all__ = [
    "LogNormal",
    "LogitNormal",
    "PacedLevels",
    "Uniform",
]
