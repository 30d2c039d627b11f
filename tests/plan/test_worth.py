"""What a plan is worth: counted by hand, on plans that are drawn for it."""

from __future__ import annotations

import pytest
import torch

from kedge.errors import InputError
from kedge.plan.worth import Outside, Sooner, diversity


def along(*xs: float) -> torch.Tensor:
    """A plan `[1, H, 4]` along the first axis."""
    states = torch.zeros(1, len(xs), 4)
    states[0, :, 0] = torch.tensor(xs)
    return states


def test_the_sooner_it_is_there_the_more() -> None:
    worth = Sooner((3.0, 0.0), reach=0.5)
    assert worth(along(0, 1, 2, 3)).tolist() == [0.25]
    assert worth(along(0, 2.6, 3.4, 3)).tolist() == [0.75]
    assert worth(along(0, 1, 2, 2.4)).tolist() == [0.0]
    assert Sooner((3.0, 1.0))(along(3.0, 3.0)).tolist() == [0.0], "along every axis"


def test_a_way_through_the_box_costs_by_the_time_that_it_takes() -> None:
    """From 0 to 4 in two steps of 2: six points a step, of which those between 1 and 2 count."""
    worth = Outside.of([1, -1, 2, 1])
    assert worth(along(0, 2, 4)).tolist() == pytest.approx([-2 / 12])
    assert worth(along(1.5, 1.5, 1.5)).tolist() == [-1.0]
    assert worth(along(3, 4, 5)).tolist() == [0.0]
    assert Outside.of([1, 0.5, 2, 1])(along(0, 2, 4)).tolist() == [0.0], "it passes beside"


@pytest.mark.parametrize("box", [[1.0, 0.0, 1.0, 2.0], [0.0, 2.0, 1.0, 1.0], [0.0, 1.0, 2.0]])
def test_what_is_no_box_is_told(box: list[float]) -> None:
    with pytest.raises(InputError, match="a box is x from, y from, x to, y to"):
        Outside.of(box)


def test_diversity_is_the_mean_distance_of_two_plans() -> None:
    plans = torch.stack([along(0, 0), along(0, 2), along(0, 4)], 1)
    assert diversity(plans).tolist() == pytest.approx([(1 + 2 + 1) / 3])
    assert diversity(plans[:, :1].expand(1, 3, 2, 4)).tolist() == [0.0]
