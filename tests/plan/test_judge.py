"""What a judge says of plans to a goal that its critic knows nothing of."""

import torch

from kedge.data import Normaliser
from kedge.plan import Judge

JUDGE = Judge(None, Normaliser(torch.zeros(4), torch.ones(4)), reach=0.5, discount=0.9)


def test_the_soonest_at_the_goal_is_worth_most_and_one_that_never_comes_nothing():
    """Three points 2 steps apart, along x; the goal is at x = 2."""
    states = torch.zeros(1, 3, 3, 4)
    states[0, 0, :, 0] = torch.tensor([0.0, 1.0, 2.0])  # there at its third point, after 4 steps
    states[0, 1, :, 0] = torch.tensor([0.0, 1.6, 0.0])  # within reach at its second, after 2
    states[0, 2, :, 0] = torch.tensor([0.0, 1.4, 1.4])  # never
    values = JUDGE.soonest(states, torch.tensor([[2.0, 0.0]]), stride=2)
    torch.testing.assert_close(values, torch.tensor([[0.9**4, 0.9**2, 0.0]]))


def test_each_situation_has_its_own_goal_and_velocities_do_not_count():
    states = torch.zeros(2, 1, 2, 4)
    states[:, :, :, 2:] = 7.0
    goals = torch.tensor([[0.0, 0.3, 0.0, 0.0], [0.0, 0.6, 0.0, 0.0]])
    assert JUDGE.soonest(states, goals, stride=5).tolist() == [[1.0], [0.0]]
