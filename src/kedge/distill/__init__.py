"""A trained model made cheaper: the same samples in fewer steps, or from numbers of fewer bits."""

from __future__ import annotations

from kedge.distill.affine import AffineCodes, least_squares
from kedge.distill.asked import Asked, NormalSteps, asked_on_walks
from kedge.distill.calibration import calibrated, store_calibration, stored_calibration
from kedge.distill.integers import in_integers
from kedge.distill.layers import QuantisedLayer
from kedge.distill.quantise import entering, quantised, requantised
from kedge.distill.steps import distilled_steps, store_steps, stored_steps
from kedge.distill.transport import Transport, store_transport, stored_transport, transport

__all__ = [
    "AffineCodes", "Asked", "NormalSteps", "QuantisedLayer", "Transport", "asked_on_walks", "calibrated",
    "distilled_steps", "entering", "in_integers", "least_squares", "quantised", "requantised", "store_calibration",
    "store_steps", "store_transport", "stored_calibration", "stored_steps", "stored_transport", "transport",
]  # fmt: skip
