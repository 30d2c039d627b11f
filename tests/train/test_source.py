"""Shuffled batches."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kedge.train import Batches, Tick

TICK = Tick(0, 0)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**40))
def test_each_epoch_is_another_permutation(count: int, size: int, seed: int) -> None:
    size = min(size, count)
    source = Batches(torch.arange(count), size, seed=seed)
    epochs = [torch.cat([source.next(TICK) for _ in range(count // size)]) for _ in range(2)]
    for epoch in epochs:
        assert len(epoch) == count // size * size
        assert len(epoch.unique()) == len(epoch)
    if count > 15 and size * 2 <= count:
        assert not torch.equal(epochs[0], epochs[1])


def test_the_order_is_uniform() -> None:
    """Where sample 0 lands over 4,000 epochs, against the chi-squared quantile of 1e-4 at 7 degrees of freedom."""
    source = Batches(torch.arange(8), 8)
    places = torch.tensor([int((source.next(TICK) == 0).nonzero()) for _ in range(4000)])
    counts = places.bincount(minlength=8).double()
    assert float(((counts - 500) ** 2 / 500).sum()) < 29.9


@given(st.integers(0, 30))
def test_a_position_is_all_there_is_to_save(position: int) -> None:
    data = {"a": torch.arange(20).float(), "b": torch.arange(40).reshape(20, 2)}
    one, other = Batches(data, 6, seed=9), Batches(data, 6, seed=9)
    for _ in range(position):
        one.next(TICK)
    other.load(one.state())
    for _ in range(5):
        a, b = one.next(TICK), other.next(TICK)
        assert torch.equal(a["a"], b["a"])
        assert torch.equal(a["b"], b["b"])
        assert torch.equal(a["a"] * 2, a["b"][:, 0].float())  # the leaves stay together


def test_another_seed_is_another_order() -> None:
    a, b = (Batches(torch.arange(100), 100, seed=seed).next(TICK) for seed in (0, 1))
    assert not torch.equal(a, b)


def test_bad_data_is_refused_in_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"^Batches: all tensors must lead with the same number of samples, got 'a' \(3,\)"
    ):
        Batches({"a": torch.zeros(3), "b": torch.zeros(4)}, 2)
    with pytest.raises(ValueError, match=r"^Batches: the batch size must lie between 1 and the 3 samples, got 4$"):
        Batches(torch.zeros(3), 4)
    with pytest.raises(ValueError, match=r"^Batches: 'a' holds 2 non-finite of 3 numbers$"):
        Batches({"a": torch.tensor([1.0, float("nan"), float("inf")])}, 2)
    with pytest.raises(
        ValueError, match=r"^Batches: the saved position belongs to other batches \(samples: 5 there, 4 here\)$"
    ):
        Batches(torch.zeros(4), 2).load(Batches(torch.zeros(5), 2).state())


def test_data_within_data_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^Batches: 'x' is no tensor; data is a tensor for each name, none within"):
        inspect.unwrap(Batches.__init__)(object.__new__(Batches), {"x": {"a": torch.zeros(4)}}, 2)
