"""Fitting a denoiser: draws, their law, what an error counts, and the loss."""

from kedge.fit import proposals, weightings
from kedge.fit.bound import Bound, bound
from kedge.fit.draw import Draw, Proposal
from kedge.fit.error import Space, denoising_error, level_error, per_clean
from kedge.fit.loss import DenoisingLoss, Example, unpack
from kedge.fit.sandwich import Sandwich
from kedge.fit.weightings import Weighting

__all__ = [
    "Bound",
    "DenoisingLoss",
    "Draw",
    "Example",
    "Proposal",
    "Sandwich",
    "Space",
    "Weighting",
    "bound",
    "denoising_error",
    "level_error",
    "per_clean",
    "proposals",
    "unpack",
    "weightings",
]
