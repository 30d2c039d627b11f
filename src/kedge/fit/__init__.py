"""Fitting a denoiser: draws, their law, what an error counts, and the loss."""

from kedge.fit import proposals, weightings
from kedge.fit.draw import Draw, Proposal
from kedge.fit.error import denoising_error, level_error
from kedge.fit.loss import DenoisingLoss, Example, unpack
from kedge.fit.weightings import Weighting

__all__ = [
    "DenoisingLoss",
    "Draw",
    "Example",
    "Proposal",
    "Weighting",
    "denoising_error",
    "level_error",
    "proposals",
    "unpack",
    "weightings",
]
