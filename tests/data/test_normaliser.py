"""Against numpy on the whole array; back and forth; what does not vary; groups; weights on disk."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import kedge.data
from data.logs import logs_of
from kedge.data import Normaliser
from kedge.data.columns import at_once, refuse_nonfinite
from kedge.data.moments import moments
from kedge.errors import InputError
from kedge.train import load_weights, save_weights


def data(count: int = 1000, seed: int = 0) -> np.ndarray:
    """Dimensions of very different size, one of them far from zero."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, 3)) * [1.0, 1e-3, 50.0] + [0.0, 1.0, 1e4]).astype(np.float32)


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 9))
def test_moments_are_numpys_whatever_the_chunks(count: int, chunk: int, seed: int) -> None:
    values = data(count, seed)
    found = moments(values, chunk)
    exact = values.astype(np.float64)
    # float64 throughout: what remains is the rounding of sums of `count` numbers of size 1e4
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found.std, exact.std(0), rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(found.low, exact.min(0))
    np.testing.assert_array_equal(found.high, exact.max(0))


def test_moments_of_finite_numbers_alone() -> None:
    values = data()
    values[3, 0], values[4, 0], values[5, 2] = np.nan, np.inf, -np.inf
    found = moments(values, 7)
    assert found.nonfinite == 3
    assert found.count.tolist() == [998, 1000, 999]
    first = values[np.isfinite(values[:, 0]), 0].astype(np.float64)
    np.testing.assert_allclose([found.mean[0], found.std[0]], [first.mean(), first.std()], rtol=1e-12)
    assert (found.low[0], found.high[0]) == (first.min(), first.max())


def test_of_wide_columns_few_steps_are_looked_at_at_once() -> None:
    """8,192 steps of 2,048 numbers would be 128 MB in float64 and several times as much on the way; a chunk is 32."""
    assert at_once(np.broadcast_to(np.uint8(0), (1 << 20, 96, 96, 3))) == (1 << 22) // (96 * 96 * 3)
    assert at_once(np.zeros((3, 64))) == at_once(np.zeros(3)) == 1 << 16
    wide = np.broadcast_to(np.float32(1), (1 << 13, 1 << 11))
    tracemalloc.start()
    found = moments(wide)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    refuse_nonfinite("images", wide, "here")
    looked = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.mean == 1).all()
    assert found.count.tolist() == [1 << 13] * (1 << 11)
    assert peak < 256 << 20
    assert looked < 12 << 20


def test_gaussian_has_mean_0_and_deviation_1() -> None:
    z = Normaliser.fit(data())(torch.from_numpy(data())).double()
    # x of size 1e4 is known to 1e4 * 2^-24 = 6e-4, hence z to 6e-4 / 50; the middle one to 6e-8 / 1e-3
    assert z.mean(0).abs().max() < 1e-4
    assert (z.std(0, correction=0) - 1).abs().max() < 1e-4


def test_limits_are_plus_and_minus_one() -> None:
    z = Normaliser.fit(data(), "limits")(torch.from_numpy(data()))
    torch.testing.assert_close(z.amin(0), -torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.amax(0), torch.ones(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["gaussian", "limits"])
def test_undo_undoes(kind: str) -> None:
    x = torch.from_numpy(data())
    normaliser = Normaliser.fit(x, kind, shared=((0, 1),))
    torch.testing.assert_close(normaliser.undo(normaliser(x)), x, rtol=3e-7, atol=3e-7)
    assert normaliser(x.reshape(10, 100, 3)).shape == (10, 100, 3)
    assert torch.equal(normaliser(x[5]), normaliser(x)[5])


@pytest.mark.parametrize("kind", ["gaussian", "limits"])
def test_what_does_not_vary_is_shifted_to_zero(kind: str) -> None:
    x = data()
    x[:, 1] = 7.3
    x[:, 2] = np.nextafter(np.float32(5e3), np.float32(np.where(x[:, 0] > 0, 1e4, 0)))
    normaliser = Normaliser.fit(x, kind)
    z = normaliser(torch.from_numpy(x))
    assert normaliser.scale[1:].tolist() == [1.0, 1.0]
    assert z[:, 1].abs().max() < 1e-6
    assert z[:, 2].abs().max() < 1e-2


def test_a_group_shares_one_scale() -> None:
    x = data()
    each = Normaliser.fit(x)
    shared = Normaliser.fit(x, shared=((0, 2),))
    together = ((each.scale[0] ** 2 + each.scale[2] ** 2) / 2).sqrt()
    torch.testing.assert_close(shared.scale, torch.stack([together, each.scale[1], together]))
    assert torch.equal(shared.shift, each.shift)
    limits = Normaliser.fit(x, "limits", shared=((0, 2),))
    assert limits.scale[0] == limits.scale[2] == Normaliser.fit(x, "limits").scale[2]
    z = limits(torch.from_numpy(x))
    assert float(z.abs().max()) <= 1 + 1e-4


def test_a_constant_in_a_group_takes_its_scale() -> None:
    x = data()
    x[:, 2] = 3.0
    shared = Normaliser.fit(x, shared=((0, 2),))
    assert shared.scale[0] == shared.scale[2] == Normaliser.fit(x).scale[0]


def test_from_trajectories_in_memory_or_mapped(tmp_path: Path) -> None:
    logs = logs_of([500, 300])
    opened = kedge.data.open(logs.save(tmp_path / "x"))
    whole, mapped, array = (Normaliser.fit(one) for one in (logs, opened, logs.observations))
    for other in (mapped, array):
        assert torch.equal(whole.shift, other.shift)
        assert torch.equal(whole.scale, other.scale)


def test_its_numbers_are_kept_with_the_weights(tmp_path: Path) -> None:
    net = nn.ModuleDict({"net": nn.Linear(3, 3), "normaliser": Normaliser.fit(data())})
    assert [name for name, _ in net.named_parameters()] == ["net.weight", "net.bias"]
    save_weights(tmp_path / "w.safetensors", net.state_dict())
    empty = Normaliser(torch.zeros(3), torch.ones(3))
    fresh = nn.ModuleDict({"net": nn.Linear(3, 3), "normaliser": empty})
    fresh.load_state_dict(load_weights(tmp_path / "w.safetensors"))
    x = torch.from_numpy(data())
    assert torch.equal(empty(x), net["normaliser"](x))


def test_bad_input_is_one_line() -> None:
    for call, said in [
        (lambda: Normaliser.fit(data(), "minmax"), r'unknown kind \'minmax\', choose "gaussian" or "limits"'),
        (lambda: Normaliser.fit(data(), shared=((0, 3),)), r"shared names dimension 3, but there are 0 to 2"),
        (lambda: Normaliser.fit(data(), shared=((0, 1), (1, 2))), r"shared names dimension 1 twice"),
        (lambda: Normaliser.fit(data()[:, 0]), r"the data must be \[N, D\] with at least a row, got \[1000\]"),
        (lambda: Normaliser.fit(data() * np.nan), r"3000 numbers of the data are infinite or nan"),
    ]:
        with pytest.raises(InputError, match=rf"^Normaliser: {said}$"):
            call()
    with pytest.raises(ValueError, match=r"^Normaliser: every scale must be positive"):
        Normaliser(torch.zeros(2), torch.tensor([1.0, 0.0]))
