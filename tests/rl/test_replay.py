"""Transitions: lived through as an environment says, remembered in order, and taken up where a run was stopped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from kedge.envs.task import Simulator
from kedge.noise import Noise
from kedge.rl import OwnEpisodes, Replay, lived
from kedge.train import Source, Tick


class Counter:
    """Its state is how often it was stepped and what its seed was; a step is worth its action."""

    def __init__(self, count: int = 3) -> None:
        self.count = count
        self.at = np.zeros((count, 2))

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        self.at = np.stack([np.zeros(self.count), np.asarray(seeds, dtype=float)], 1)
        return self.at.copy()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.at[:, 0] += 1
        return self.at.copy(), actions[:, 0].copy()


def ten_times(state: Tensor, noise: Noise, step: int) -> Tensor:
    return 10 * state[:, :1] + noise.uniform((len(state), 1), step, dtype=torch.float32) / 100


def numbered(first: int, count: int) -> dict[str, Tensor]:
    return {"x": torch.arange(first, first + count).float(), "y": torch.arange(first, first + count)[:, None] * 2.0}


def test_an_episode_is_what_happened() -> None:
    assert isinstance(Counter(), Simulator)
    made = lived(Counter(), ten_times, 4, [5, 6, 7], Noise.of(0, 3), ends=True)
    assert made["state"].shape == (12, 2)
    assert made["state"][:, 0].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert made["next"][:, 0].tolist() == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert made["state"][:, 1].tolist() == [5, 6, 7] * 4
    torch.testing.assert_close(made["reward"], made["action"][:, 0], rtol=0, atol=0)
    assert made["reward"].long().tolist() == [0] * 3 + [10] * 3 + [20] * 3 + [30] * 3
    assert len(made["action"].unique()) == 12, "each of its own noise"
    assert made["ended"].tolist() == [False] * 9 + [True] * 3
    assert not lived(Counter(), ten_times, 4, [5, 6, 7], Noise.of(0, 3))["ended"].any(), "cut off is not over"


def test_a_task_may_be_over_at_its_first_reward() -> None:
    """Copy i earns from step i on: it has i + 1 transitions, of which the last is its end."""

    def in_turn(state: Tensor, noise: Noise, step: int) -> Tensor:
        return (state[:, 1:] <= step).float()

    made = lived(Counter(), in_turn, 9, [0, 1, 2], Noise.of(0, 3), once=True)
    assert made["state"].tolist() == [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]]
    assert made["ended"].tolist() == (made["reward"] > 0).tolist() == [True, False, False, True, False, True]
    own = OwnEpisodes(Counter(), in_turn, Replay(99), 8, horizon=9, once=True)
    own.next(Tick(0, 0))
    alone = len(lived(Counter(), in_turn, 9, own.replay.data["state"][:3, 1].long().tolist(), Noise.of(0, 3))["reward"])
    assert own.lived == len(own.replay) == alone == 27, "seeds are large: nobody earns, and all go on to the end"


def test_the_oldest_leave() -> None:
    replay = Replay(5)
    for first in (0, 3, 6):
        replay.add(numbered(first, 3))
    assert len(replay) == 5
    drawn = replay.draw(2000, Noise.of(1, 2000), 0)
    assert drawn["x"].unique().tolist() == [4, 5, 6, 7, 8]
    assert drawn["y"][:, 0].equal(2 * drawn["x"])
    counts = torch.bincount(drawn["x"].long())[4:]
    assert (counts - 400).abs().max() < 5 * (2000 * 0.2 * 0.8) ** 0.5
    replay.add(numbered(100, 9))
    assert replay.draw(500, Noise.of(1, 500), 0)["x"].unique().tolist() == [104, 105, 106, 107, 108]
    assert not replay.draw(50, Noise.of(1, 50), 0)["x"].equal(replay.draw(50, Noise.of(1, 50), 1)["x"])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is remembered"):
        Replay().draw(3, Noise.of(0, 3), 0)
    with pytest.raises(ValueError, match="holds none"):
        Replay(0)
    replay = Replay(5)
    replay.add(numbered(0, 3))
    with pytest.raises(ValueError, match="it holds x, y"):
        replay.add({"x": torch.zeros(3)})
    with pytest.raises(ValueError, match="does not go on"):
        Replay(6).load(replay.state())
    with pytest.raises(ValueError, match="at least 1"):
        OwnEpisodes(Counter(), ten_times, replay, batch=0)


def source(capacity: int = 20) -> OwnEpisodes:
    return OwnEpisodes(Counter(), ten_times, Replay(capacity), 8, horizon=2, every=3, limit=18)


def test_episodes_come_when_it_is_their_time() -> None:
    here = source()
    assert isinstance(here, Source)
    seen = []
    for step in range(12):
        here.next(Tick(step, 5))
        seen.append(here.lived)
    assert seen == [6] * 3 + [12] * 3 + [18] * 6, "and no more of them than were allowed"
    begins = here.replay.data["state"][: len(here.replay), 1].unique()
    assert len(begins) == 9, "every episode begins by itself"
    late = source()
    late.next(Tick(1, 5))
    assert late.lived == 6, "there is always something to learn from"


def test_a_run_goes_on_where_it_was() -> None:
    for capacity in (20, 7):
        one, other = source(capacity), source(capacity)
        for step in range(5):
            one.next(Tick(step, 5))
        other.load(one.state())
        for step in range(5, 10):
            for a, b in zip(one.next(Tick(step, 5)).values(), other.next(Tick(step, 5)).values(), strict=True):
                assert a.equal(b)
        assert one.lived == other.lived
