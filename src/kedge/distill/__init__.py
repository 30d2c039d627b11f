"""A trained model made cheaper: the same samples from numbers of fewer bits."""

from __future__ import annotations

from kedge.distill.affine import AffineCodes, least_squares
from kedge.distill.asked import Asked, NormalSteps, asked_on_walks
from kedge.distill.integers import in_integers
from kedge.distill.layers import QuantisedLayer
from kedge.distill.quantise import entering, quantised, requantised

__all__ = [
    "AffineCodes",
    "Asked",
    "NormalSteps",
    "QuantisedLayer",
    "asked_on_walks",
    "entering",
    "in_integers",
    "least_squares",
    "quantised",
    "requantised",
]  # fmt: skip
