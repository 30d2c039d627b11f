"""FV: trained for seconds on logs alone, it plans its way to where rewards were earned."""

from __future__ import annotations

import numpy as np
import pytest

from kedge.fit.weightings import Polynomial
from kedge.paths import Trig
from kedge.recipes import FV
from kedge.recipes.training import Training
from kedge.walk.solvers import DPMSolverPP
from small_maze import latched, logs, maze

pytestmark = pytest.mark.system

SMALL = FV(steps=100, batch=24, width=16, mults=(1, 2), horizon=16, candidates=16, atlas=8)


def test_it_is_made_of_what_the_paper_says() -> None:
    """TrigFlow's path, the variational polynomial of degree 5, 5 evaluations of DPM-Solver++(2M)."""
    training = Training(FV(steps=1), logs(), None, progress=False)
    loss = training.models.planner
    assert isinstance(loss.path, Trig)
    assert isinstance(loss.weighting, Polynomial)
    assert len(loss.weighting.coefficients) == 6
    proposer = training.agent().proposer
    assert proposer.solver == DPMSolverPP(order=2)
    assert proposer.solver.evaluations(len(proposer.grid.levels(loss.path).rows()) - 1) == 5


def test_seconds_of_training_find_the_goal() -> None:
    """Far better than the same agent untrained, on the same starts; it solves what the other does not."""
    agent, fresh = (SMALL if trained else FV(**vars(SMALL) | {"steps": 1}) for trained in (True, False))
    ours, theirs = (latched(one.train(logs(), progress=False), 16) for one in (agent, fresh))
    difference = ours - theirs
    assert difference.mean() > 20
    assert difference.mean() > 3 * difference.std(ddof=1) / len(difference) ** 0.5
    assert np.mean(ours > 0) > 0.9
    assert maze().horizon == 300
