"""A trained model made cheaper: the same samples from numbers of fewer bits, or in fewer evaluations."""

from __future__ import annotations

from kedge.distill.affine import AffineCodes, least_squares
from kedge.distill.asked import Asked, NormalSteps, asked_on_walks
from kedge.distill.calibration import calibrated, store_calibration, stored_calibration
from kedge.distill.counts import CountLoss, StepCounts, step_rewards, walk_by_counts
from kedge.distill.imitate import Imitation, by_hand, teacher_ends
from kedge.distill.integers import in_integers
from kedge.distill.klub import Klub
from kedge.distill.layers import QuantisedLayer
from kedge.distill.partition import least, swept
from kedge.distill.quantise import entering, quantised, requantised
from kedge.distill.regularity import Teachings
from kedge.distill.run_grids import grids_of, load_grid, save_grid
from kedge.distill.solver_search import SearchedSolvers, SolverSchedule, random_schedules, schedule_error, search_solver
from kedge.distill.spectrum import free_grid, gauss_kl, tangent, variances_of
from kedge.distill.statistics import statistics_of
from kedge.distill.steps import distilled_steps, store_steps, stored_steps
from kedge.distill.subject import Subject, endpoint_error, log_linear
from kedge.distill.transport import Transport, store_transport, stored_transport, transport
from kedge.distill.width_search import SearchedWidths, WidthTrial, random_widths, search_widths

__all__ = [
    "AffineCodes",
    "Asked",
    "CountLoss",
    "Imitation",
    "Klub",
    "NormalSteps",
    "QuantisedLayer",
    "SearchedSolvers",
    "SearchedWidths",
    "SolverSchedule",
    "StepCounts",
    "Subject",
    "Teachings",
    "Transport",
    "WidthTrial",
    "asked_on_walks",
    "by_hand",
    "calibrated",
    "distilled_steps",
    "endpoint_error",
    "entering",
    "free_grid",
    "gauss_kl",
    "grids_of",
    "in_integers",
    "least",
    "least_squares",
    "load_grid",
    "log_linear",
    "quantised",
    "random_schedules",
    "random_widths",
    "requantised",
    "save_grid",
    "schedule_error",
    "search_solver",
    "search_widths",
    "statistics_of",
    "step_rewards",
    "store_calibration",
    "store_steps",
    "store_transport",
    "stored_calibration",
    "stored_steps",
    "stored_transport",
    "swept",
    "tangent",
    "teacher_ends",
    "transport",
    "variances_of",
    "walk_by_counts",
]
