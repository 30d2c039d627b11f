"""FV: what it is made of, and that it plans its way to where rewards were earned, from logs alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from kedge.fit.weightings import Polynomial
from kedge.paths import Trig
from kedge.recipes import FV
from kedge.recipes.landscape import measure
from kedge.recipes.training import Training, divided
from kedge.train import Tick
from kedge.walk.solvers import DPMSolverPP
from small_maze import arrived, logs

pytestmark = pytest.mark.system

SMALL = FV(
    steps=300, batch=16, width=16, mults=(1, 2), atlas=8, horizon=16, candidates=12, goals=0.0, critic_rate=3e-3,
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


def test_seconds_of_training_learn_what_plans_look_like() -> None:
    """The error on windows that were held out falls by a fifth and more at the middle levels, where noise hides where
    a plan leads but not that it hangs together.
    """
    training = Training(replace(SMALL, steps=45), logs(), None, progress=False)
    held_out = divided(SMALL, logs())[1]
    assert held_out is not None
    windows = training._windows(held_out, training.models.normaliser, "episode", batch=128)
    batch = windows.next(Tick(0, 0)) | {"told": torch.zeros(128, dtype=torch.bool)}

    def error() -> float:
        lines = measure(training.models.planner, batch)
        return sum(math.exp(line["log_loss"]) for line in lines if abs(line["log_sigma"]) < 0.7) / sum(
            abs(line["log_sigma"]) < 0.7 for line in lines
        )

    before = error()
    training.trainer.train()
    assert error() < 0.8 * before


@pytest.mark.slow
def test_more_of_it_finds_the_goal() -> None:
    """From all over a ring of a maze it arrives where the same agent untrained does not, whatever the seed."""
    for seed in (0, 1):
        ours = arrived(SMALL.train(logs(), seed=seed, progress=False))
        theirs = arrived(replace(SMALL, steps=1).train(logs(), seed=seed, progress=False))
        assert ours.mean() > 0.7
        assert ours.mean() > theirs.mean() + 0.3
