"""FV: trained for seconds on logs alone, it plans its way to where rewards were earned."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kedge.fit.weightings import Polynomial
from kedge.paths import Trig
from kedge.recipes import FV
from kedge.recipes.training import Training
from kedge.walk.solvers import DPMSolverPP
from small_maze import arrived, logs

pytestmark = pytest.mark.system

SMALL = FV(
    steps=100, batch=16, width=16, mults=(1, 2), atlas=8, horizon=16, candidates=12, goals=0.0, critic_rate=3e-3,
)  # fmt: skip


def test_it_is_made_of_what_the_paper_says() -> None:
    """TrigFlow's path, the variational polynomial of degree 5, 5 evaluations of DPM-Solver++(2M)."""
    training = Training(FV(steps=1), logs(), None, progress=False)
    loss = training.models.planner
    assert isinstance(loss.path, Trig)
    assert isinstance(loss.weighting, Polynomial)
    assert len(loss.weighting.coefficients) == 6
    proposer: Any = training.agent().proposer
    assert proposer.solver == DPMSolverPP(order=2)
    assert proposer.solver.evaluations(len(proposer.grid.levels(loss.path).rows()) - 1) == 5


@functools.cache
def ours() -> np.ndarray:
    return arrived(SMALL.train(logs(), progress=False), steps=200)


def test_seconds_of_training_find_the_goal() -> None:
    """From most of a ring of a maze."""
    assert ours().mean() > 0.5


def test_untrained_it_does_not() -> None:
    """The same agent, on the same starts."""
    difference = ours().astype(float) - arrived(replace(SMALL, steps=1).train(logs(), progress=False), steps=200)
    assert difference.mean() > 0.25
    assert difference.mean() > 2 * difference.std(ddof=1) / len(difference) ** 0.5
