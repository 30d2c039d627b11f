"""A trained model made cheaper: the same samples from numbers of fewer bits, or in fewer evaluations."""

"""A trained model made cheaper: the same samples in fewer steps, or from numbers of fewer bits."""

from __future__ import annotations

from kedge.distill.affine import AffineCodes, least_squares
from kedge.distill.asked import Asked, NormalSteps, asked_on_walks
from kedge.distill.calibration import calibrated, store_calibration, stored_calibration
from kedge.distill.integers import in_integers
from kedge.distill.layers import QuantisedLayer
from kedge.distill.quantise import entering, quantised, requantised
from kedge.distill.solver_search import SearchedSolvers, SolverSchedule, endpoint_error, random_schedules, search_solver
from kedge.distill.statistics import statistics_of

__all__ = [
    "AffineCodes",
    "Asked",
    "NormalSteps",
    "QuantisedLayer",
    "SearchedSolvers",
    "SolverSchedule",
    "asked_on_walks",
    "calibrated",
    "endpoint_error",
    "entering",
    "in_integers",
    "least_squares",
    "quantised",
    "random_schedules",
    "requantised",
    "search_solver",
    "statistics_of",
    "store_calibration",
    "stored_calibration",
]
