"""The nearest logged windows, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.logs import logs_of
from kedge.data import Normaliser, Segments
from kedge.plan import NearestSegments, Proposer
from kedge.plan.proposer import candidate_seeds


def made(windows: int = 100_000, lengths: tuple[int, ...] = (90, 60)):
    logs = logs_of(list(lengths), seed=3)
    windowed = Segments(logs, 4, 10, 1, rest=(2, 3), fields=["states"])
    normaliser = Normaliser(torch.zeros(4), torch.tensor([30.0, 1.0, 2.0, 0.5]))
    return logs, windowed, NearestSegments.of(windowed, normaliser, windows)


def test_they_are_the_true_neighbours() -> None:
    logs, windowed, nearest = made()
    assert isinstance(nearest, Proposer)
    assert (nearest.horizon, nearest.stride) == (4, 10)
    here = torch.from_numpy(logs.observations[[5, 120]]) + 0.05
    found = nearest.propose(here, candidate_seeds(np.arange(2), 0, 6))
    scale = np.array([30.0, 1.0, 2.0, 0.5])
    for i in range(2):
        gap = np.linalg.norm((logs.observations - here[i].numpy()) / scale, axis=1)
        order = np.argsort(gap)[:6]
        expected = windowed.at(order)["states"]
        expected[:, 0] = here[i]
        torch.testing.assert_close(found[i], expected)
        assert order[0] == (5, 120)[i]
    assert found[1, 0, -1, 2:].tolist() == [0, 0], "past its end a window is at rest"


def test_few_starts_are_spread_over_the_data_and_come_again() -> None:
    _, _, nearest = made(windows=4)
    assert nearest.starts.tolist() == [0, 49, 99, 149]
    found = nearest.propose(torch.zeros(1, 4), candidate_seeds(np.arange(1), 0, 6))
    assert found.shape == (1, 6, 4, 4)
    torch.testing.assert_close(found[0, 4:], found[0, :2])
    assert found[0, :4, 1].unique(dim=0).shape[0] == 4


def test_the_data_is_not_written_to() -> None:
    logs, _, nearest = made()
    before = logs.observations.copy()
    nearest.propose(torch.full((1, 4), 9.0), candidate_seeds(np.arange(1), 0, 3))
    np.testing.assert_array_equal(logs.observations, before)


@pytest.mark.parametrize("count", [1, 65, 130])
def test_many_situations_at_once(count: int) -> None:
    logs, _, nearest = made()
    here = torch.from_numpy(logs.observations[np.arange(count) % 150])
    found = nearest.propose(here, candidate_seeds(np.arange(count), 0, 2))
    torch.testing.assert_close(found[:, 0, 0], here)
    alone = nearest.propose(here[-1:], candidate_seeds(np.arange(1), 0, 2))
    torch.testing.assert_close(alone[0], found[-1])
