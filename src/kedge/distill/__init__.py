"""A trained model made cheaper: the same samples from numbers of fewer bits, in fewer steps or by narrower networks."""

from __future__ import annotations

from kedge.distill.affine import AffineCodes, least_squares
from kedge.distill.asked import Asked, NormalSteps, asked_on_walks
from kedge.distill.counts import CountLoss, StepCounts, step_rewards, walk_by_counts
from kedge.distill.imitate import Imitation, by_hand, teacher_ends
from kedge.distill.integers import in_integers
from kedge.distill.klub import Klub
from kedge.distill.layers import QuantisedLayer
from kedge.distill.partition import least, swept
from kedge.distill.quantise import entering, quantised, requantised
from kedge.distill.regularity import Teachings
from kedge.distill.spectrum import free_grid, gauss_kl, tangent, variances_of
from kedge.distill.stored import grids_of, load_grid, save_grid
from kedge.distill.subject import Subject, endpoint_error, log_linear

__all__ = [
    "AffineCodes", "Asked", "CountLoss", "Imitation", "Klub", "NormalSteps", "QuantisedLayer", "StepCounts", "Subject",
    "Teachings", "asked_on_walks", "by_hand", "endpoint_error", "entering", "free_grid", "gauss_kl", "grids_of",
    "in_integers", "least", "least_squares", "load_grid", "log_linear", "quantised", "requantised", "save_grid",
    "step_rewards", "swept", "tangent", "teacher_ends", "variances_of", "walk_by_counts",
]  # fmt: skip
