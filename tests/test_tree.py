from __future__ import annotations

import pytest
import torch

from kedge.tree import first_leaf, lead, leaves, sum_event, take, tree_map


def test_map_keeps_the_structure_and_pairs_leaves_by_name() -> None:
    x = {"a": torch.ones(2, 3), "b": torch.zeros(2)}
    y = {"b": torch.full((2,), 5.0), "a": torch.full((2, 3), 7.0)}  # another order of the same fields
    total = tree_map(torch.add, x, y)
    assert list(total) == ["a", "b"]
    assert torch.equal(total["a"], torch.full((2, 3), 8.0))
    assert torch.equal(total["b"], torch.full((2,), 5.0))
    assert torch.equal(tree_map(torch.add, x["a"], y["a"]), total["a"])


def test_leaves() -> None:
    x = {"b": torch.zeros(2), "a": torch.ones(2, 3)}
    assert leaves(x)[0] is x["b"]
    assert leaves(x)[1] is x["a"]
    assert first_leaf(x) is x["b"]
    assert leaves(x["a"])[0] is x["a"]
    assert first_leaf(x["a"]) is x["a"]


def test_take_permutes_prunes_and_branches_every_leaf() -> None:
    x = {"a": torch.arange(6.0).view(3, 2), "b": torch.arange(3)}
    taken = take(x, torch.tensor([2, 0, 0, 1]))
    assert isinstance(taken, dict)
    assert taken["a"][:, 0].tolist() == [4, 0, 0, 2]
    assert taken["b"].tolist() == [2, 0, 0, 1]


@pytest.mark.parametrize(
    ("level", "aligned"), [((), (1, 1, 1)), ((4,), (4, 1, 1)), ((4, 3), (4, 3, 1)), ((4, 3, 2), (4, 3, 2))]
)
def test_lead_aligns_from_the_batch_axis_on(level: tuple[int, ...], aligned: tuple[int, ...]) -> None:
    value = torch.rand(level, dtype=torch.float64)
    x = torch.zeros(4, 3, 2)
    moved = lead(value, x)
    assert moved.shape == aligned
    assert moved.dtype == x.dtype
    assert torch.equal(moved.flatten(), value.flatten().to(x.dtype))


def test_lead_is_not_torchs_own_broadcasting() -> None:
    """Three levels for three samples of three entries: torch alone would align them with the entries."""
    level = torch.tensor([1.0, 2.0, 3.0])
    x = torch.ones(3, 3)
    assert torch.equal(lead(level, x) * x, level[:, None].expand(3, 3))


def test_sum_event_sums_all_but_the_batch_and_averages_over_entries_by_name() -> None:
    x = {"a": torch.arange(12.0).double().view(2, 3, 2), "b": torch.tensor([100.0, 200.0]).double()}
    assert sum_event(x).tolist() == [15 + 100, 51 + 200]
    assert sum_event(x, average=True).tolist() == [115 / 7, 251 / 7]
    assert sum_event(x["a"]).tolist() == [15, 51]
    assert sum_event(x["b"]).tolist() == [100, 200]
    assert sum_event(x["b"], average=True).tolist() == [100, 200]
