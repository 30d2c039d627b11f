"""Places that no plan may cross: which segments meet them, and which candidate is taken then."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from kedge.data import Normaliser
from kedge.plan import Barred, Judge
from kedge.plan.barred import best

BOX = (1.0, -0.5, 2.0, 0.5)


@given(st.integers(0, 2**32))
def test_a_segment_crosses_a_box_where_its_points_do(seed: int) -> None:
    """2,000 points along each segment frame the answer: of a box that is a little smaller and of one that is larger."""
    rng = np.random.default_rng(seed)
    ends = rng.uniform(-1, 4, (20, 2, 2))
    ends[:5, 1, 0] = ends[:5, 0, 0]  # upright ones among them
    ends[0, 1] = ends[0, 0]  # and one that is a point
    states = torch.from_numpy(np.concatenate([ends, np.zeros_like(ends)], -1))
    points = ends[:, :1] + np.linspace(0, 1, 2001)[:, None] * (ends[:, 1:] - ends[:, :1])

    def met(margin: float) -> np.ndarray:
        low, high = np.array(BOX[:2]) - margin, np.array(BOX[2:]) + margin
        return np.any(((points > low) & (points < high)).all(-1), axis=-1)

    inside = ((ends[:, 0] > BOX[:2]) & (ends[:, 0] < BOX[2:])).all(-1)
    found = Barred((BOX,)).crossings(states).numpy() > 0
    assert not (found & inside).any(), "who begins inside may leave"
    assert (found | inside | ~met(-0.003)).all()
    assert (met(0.003) | ~found).all()


def test_each_crossing_counts_and_leaving_does_not() -> None:
    xs = torch.tensor([[0.0, 3, 0, 3], [1.5, 1.6, 3, 0], [1.5, 1.6, 1.7, 3], [0, 0.5, 0.9, 0]])
    states = torch.zeros(1, 4, 4, 4)
    states[0, :, :, 0] = xs
    assert Barred((BOX,)).crossings(states).tolist() == [[3, 1, 0, 0]]
    assert Barred.around([BOX], 0.2).crossings(states).tolist()[0][3] == 2, "0.9 is nearer than 0.2"
    two = Barred((BOX, (-0.2, -1.0, 0.2, 1.0)))
    assert two.crossings(states).tolist()[0] == [3 + 2, 1 + 1, 0, 1]


def test_what_crosses_least_comes_first_and_among_those_the_best() -> None:
    score = torch.tensor([[9.0, 1.0, 2.0, 3.0], [9.0, 1.0, 2.0, 3.0]])
    crossings = torch.tensor([[1, 0, 0, 2], [3, 2, 2, 1]])
    assert best(score, crossings).tolist() == [2, 3]
    assert best(score).tolist() == [0, 0]


def test_a_judge_takes_a_candidate_that_does_not_cross() -> None:
    states = torch.zeros(1, 2, 3, 4)
    states[0, 0, :, 0] = torch.tensor([0.0, 1.5, 3])
    states[0, 1, :, 1] = torch.tensor([0.0, 1, 2])
    judge = Judge(lambda x: x[:, -1, 0], Normaliser(torch.zeros(4), torch.ones(4)))
    barred = Judge(judge.critic, judge.normaliser, barred=Barred((BOX,)))
    for of, taken in ((judge, 0), (barred, 1)):
        values, inside = of.values(states), of.inside(states)
        assert of.choose(values, inside, of.crossings(states)).tolist() == [taken]
