"""Diffusion Policy: chunks of actions by the law of what was done, where regression gives its mean."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from kedge.data import Trajectories
from kedge.policy import ChunkPolicy
from kedge.recipes import DiffusionPolicy
from kedge.recipes.learning import Learning

pytestmark = pytest.mark.system

SMALL = DiffusionPolicy(steps=220, batch=128, horizon=4, execute=2, width=64, depth=1, rate=5e-3)
STATES, SHARES = np.array([-1.0, 0.0, 1.0]), np.array([0.2, 0.5, 0.8])
"""Where behaviour stands, and how often it then goes to the right."""
EACH = 1000
SIZE, SPREAD = 0.5, 0.05
"""Of an action, and its standard deviation about that."""


@functools.cache
def logs(each: int = 200, steps: int = 120) -> Trajectories:
    """An episode stands at one place and goes to one side all along; nothing is rewarded. Shares are those to the
    letter, so that what is drawn can be held to them.
    """
    rng = np.random.default_rng(0)
    side = np.concatenate([np.where(np.arange(each) < share * each, SIZE, -SIZE) for share in SHARES])
    state, count = np.repeat(STATES, each * steps), each * len(STATES)
    done = np.repeat(side, steps) + SPREAD * rng.standard_normal(count * steps)
    return Trajectories.of(state[:, None], done[:, None], steps * np.arange(1, count + 1))


@functools.cache
def trained() -> Learning:
    learning = SMALL.training(logs(), None, progress=False)
    learning.trainer.train()
    return learning


def drawn(policy: ChunkPolicy) -> np.ndarray:
    """`[states, each, actions]`."""
    return policy.draw(np.repeat(STATES, EACH)[:, None], 0)[..., 0].reshape(len(STATES), EACH, -1)


def test_both_modes_are_drawn_in_their_shares() -> None:
    """A share of 1,000 chunks has a standard error of 0.016: four times that, and a little for the network."""
    chunks = drawn(replace(trained().agent(), execute=4))
    shares = (chunks[..., 0] > 0).mean(1)
    assert np.abs(shares - SHARES).max() < 0.1
    assert (np.abs(np.abs(chunks) - SIZE) < 4 * SPREAD).mean() > 0.9
    assert (np.sign(chunks) == np.sign(chunks[..., :1])).all(-1).mean() > 0.97, "a chunk goes either way"


def test_one_evaluation_is_regression() -> None:
    """The mean of what was done, an action that nobody did, and hardly anything of the noise."""
    loss, measured = trained().trainer.parts[0].weights(), cast(Any, trained().measured)
    chunks = drawn(replace(SMALL, evaluations=1).agent(loss, measured))
    assert np.abs(chunks.mean((1, 2)) - SIZE * (2 * SHARES - 1)).max() < 0.1
    assert chunks.std(1).max() < 0.3 * SIZE


def test_as_many_actions_of_a_chunk_are_done_as_it_says() -> None:
    assert drawn(trained().agent()).shape[-1] == SMALL.execute


def test_actions_are_in_the_data_s_units_and_within_their_limits() -> None:
    """Ten times as large, they come out ten times as large, and never beyond the largest that was done."""
    some = logs()
    large = Trajectories.of(some.observations, 10 * some.actions, some.ends)
    chunks = drawn(replace(SMALL, steps=30).train(large, progress=False))
    assert np.abs(chunks).max() > 2
    assert np.abs(chunks).max() <= np.abs(large.actions).max() * (1 + 1e-6)
