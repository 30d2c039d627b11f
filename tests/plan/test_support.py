"""The map drawn from data, against brute force; the judge that uses it, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from data.logs import logs_of
from kedge.data import Normaliser, Trajectories
from kedge.plan import Judge, Support


def logs_at(points: np.ndarray) -> Trajectories:
    states = np.concatenate([points, np.zeros_like(points)], 1)
    return Trajectories.of(states, np.zeros((len(states), 2)), [len(states)])


@given(st.integers(0, 500), st.sampled_from([0.1, 0.37, 1.0]))
def test_cells_that_were_visited_and_their_neighbours(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-2, 2, (12, 2)).astype(np.float32)
    support = Support.fit(logs_at(points), size)
    assert support.covers(torch.from_numpy(points)).all()
    asked = torch.from_numpy(rng.uniform(-3, 3, (200, 2)).astype(np.float32))
    low, s = support.low, support.size
    # a point on the edge between two cells, as the lowest are, may be counted in either: ask where it makes no matter
    cells = ((asked - low) / s).floor()
    either = [((torch.from_numpy(points) - low) / s + shift).floor() for shift in (-1e-4, 1e-4)]
    near = [(cells[:, None] - visited).abs().amax(-1).amin(1) <= 1 for visited in either]
    sure = near[0] == near[1]
    assert sure.float().mean() > 0.5
    assert torch.equal(support.covers(asked)[sure], near[0][sure])


def test_chunks_make_no_difference_and_the_rest_of_the_plane_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = logs_of([50, 70])
    whole = Support.fit(logs, 0.3, (1, 2))
    chunks = Trajectories.chunks
    monkeypatch.setattr(Trajectories, "chunks", lambda self, size=7: chunks(self, 7))
    parts = Support.fit(logs, 0.3, (1, 2))
    assert torch.equal(whole.visited, parts.visited)
    assert torch.equal(whole.low, parts.low)
    assert whole.covers(torch.from_numpy(logs.observations.copy())).all()
    far = torch.tensor([[0.0, 1e6, 0.0, 0.0], [0.0, 0.0, -1e6, 0.0]])
    assert not whole.covers(far).any()


def grid() -> Support:
    """Of x from 0 to 4 in steps of 1, only the cells from 0 to 1 and from 1 to 2 are known."""
    visited = torch.zeros(4, 1, dtype=torch.bool)
    visited[:2] = True
    return Support(visited, torch.zeros(2), 1.0)


def plan(*x: float) -> Tensor:
    return torch.tensor([[v, 0.5, 0.0, 0.0] for v in x])


def test_shares_of_segments() -> None:
    # six points of each segment, its end left out: of 1, 1.33, ... 2.67 and 3, 2.5, ... .5 three lie below 2
    share = grid().share(torch.stack([plan(0.5, 2.0, 3.5), plan(1.0, 3.0, 0.0)]))
    torch.testing.assert_close(share, torch.tensor([[1.0, 0.0], [3 / 6, 3 / 6]]), rtol=0, atol=1e-6)


def unit() -> Normaliser:
    return Normaliser(torch.zeros(4), torch.ones(4))


def test_the_judge_sets_back_what_leaves_the_support() -> None:
    """Values are the last x. Score: value - firmness (sum of near shares outside + far * sum of the others)."""
    candidates = torch.stack([plan(0.5, 1.0, 1.5), plan(0.5, 2.0, 3.5), plan(1.0, 1.5, 2.5)])[None]

    def critic(plans: Tensor) -> Tensor:
        return plans[:, -1, 0]

    def chosen(**settings: float | int) -> int:
        judge = Judge(critic, unit(), grid(), **settings)  # type: ignore[arg-type]
        return int(judge.choose(judge.values(candidates), judge.inside(candidates))[0])

    free = Judge(critic, unit())
    # outside: (0, 0), (0, 1), (0, .5) less what rounds: 1.5 + k/6 >= 2 from k = 3
    assert free.choose(free.values(candidates), free.inside(candidates)).tolist() == [1]
    assert chosen(firmness=10.0, near=2) == 0
    assert chosen(firmness=1.5, near=2) == 1  # 1.5, 3.5 - 1.5, 2.5 - .75
    assert chosen(firmness=2.2, near=2) == 0  # 1.5, 1.3, 1.4
    assert chosen(firmness=2.2, near=1, far=0.5) == 1  # 1.5, 3.5 - 1.1, 2.5 - .55
    assert chosen(firmness=0.0) == 1


def test_values_are_of_normalised_plans() -> None:
    there = Normaliser(torch.tensor([1.0, 0, 0, 0]), torch.tensor([2.0, 1, 1, 1]))
    judge = Judge(lambda plans: plans[:, -1, 0], there)
    assert judge.values(plan(0, 3, 5)[None, None]).tolist() == [[2.0]]


def test_feasible_is_the_mean_share_and_one_where_nothing_is_known() -> None:
    candidates = torch.stack([plan(0.5, 1.0, 1.5), plan(0.5, 2.0, 3.5)])[None]
    assert Judge(None, unit(), grid()).inside(candidates).mean(-1).tolist() == [[1.0, 0.5]]
    assert Judge(None, unit()).inside(candidates).mean(-1).tolist() == [[1.0, 1.0]]


def test_without_a_critic_all_are_worth_the_same() -> None:
    candidates = torch.stack([plan(0.5, 2.0, 3.5), plan(0.5, 1.0, 1.5)])[None]
    judge = Judge(None, unit(), grid())
    assert judge.values(candidates).tolist() == [[0.0, 0.0]]
    assert judge.choose(judge.values(candidates), judge.inside(candidates)).tolist() == [1]
    alone = Judge(None, unit())
    assert alone.choose(alone.values(candidates), alone.inside(candidates)).tolist() == [0]
