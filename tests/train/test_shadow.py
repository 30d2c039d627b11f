"""Shadows on cases that can be solved by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kedge.train import Shadow
from kedge.train.shadow import gamma_of


class Point(nn.Module):
    """A single parameter, a buffer, and a flag that dropout would look at."""

    value: nn.Parameter
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((2,), 100.0, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def run(shadow: Shadow, values: list[float]) -> float:
    """The shadow of a parameter that takes these values one after the other."""
    point = Point()
    shadow.follow(point)
    for value in values:
        with torch.no_grad():
            point.value.fill_(value)
            point.count.add_(1)
        shadow.update()
    return float(shadow.module.get_parameter("value")[0])


def test_a_fixed_decay_lags_behind_a_steady_drift_by_d_over_one_minus_d() -> None:
    assert run(Shadow(0.9, warmup=False), [float(k) for k in range(1, 501)]) == pytest.approx(500 - 0.9 / 0.1)


@given(st.integers(2, 400), st.floats(0.02, 0.25))
def test_warm_up_is_the_power_function_average(count: int, std: float) -> None:
    """The weights telescope: that of step k is (k^(g+1) - (k-1)^(g+1)) / n^(g+1), and none is left on the start."""
    power = gamma_of(std) + 1
    edges = (torch.arange(count + 1, dtype=torch.float64) / count) ** power
    weights = edges.diff()
    values = torch.arange(1, count + 1, dtype=torch.float64).sin()
    found = run(Shadow(0.9999999, std=std), values.tolist())
    assert found == pytest.approx(float((weights * values).sum()), abs=1e-9)


@given(st.floats(0.02, 0.25))
def test_the_profile_has_the_width_it_is_named_by(std: float) -> None:
    """Numerically: the standard deviation of the density (g + 1) tau^g on [0, 1]."""
    gamma = gamma_of(std)
    tau = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    density = (gamma + 1) * tau**gamma / 200_000
    mean = (density * tau).sum()
    assert float(((tau - mean) ** 2 * density).sum().sqrt()) == pytest.approx(std, rel=1e-4)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.005)  # the pairs that the paper names
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.005)


def test_warm_up_ends_at_the_fixed_decay() -> None:
    shadow = Shadow(0.99)
    decays = [shadow.decay_at(n) for n in range(1, 2000)]
    assert decays[0] == 0.0
    assert decays == sorted(decays)
    assert decays[500] < 0.99 == decays[-1]


def test_frozen_reference_and_synchronised_copy() -> None:
    assert run(Shadow(1.0), [1.0, 2.0, 3.0]) == 100.0
    assert run(Shadow(0.0, every=3), [1.0, 2.0]) == 100.0
    assert run(Shadow(0.0, every=3), [1.0, 2.0, 3.0, 4.0, 5.0]) == 3.0
    assert run(Shadow(0.5, warmup=False, every=2), [0.0, 0.0, 0.0, 10.0]) == 0.5 * 50 + 0.5 * 10


def test_the_copy_is_for_use_and_its_buffers_are_copied() -> None:
    point, shadow = Point(), Shadow(0.9)
    shadow.follow(point)
    assert not shadow.module.training
    assert not any(p.requires_grad for p in shadow.module.parameters())
    point.count += 5
    point.get_parameter("value").data.add_(1)
    shadow.update()
    assert int(shadow.module.get_buffer("count")) == 5
    point.count = torch.tensor(9)  # replaced, not changed
    shadow.update()
    assert int(shadow.module.get_buffer("count")) == 9
    assert shadow.module.get_buffer("count") is not point.count


def test_bad_shadows_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^shadow: decay lies between 0 \(synchronised\) and 1 \(frozen\), got 1.5$"):
        Shadow(1.5)
    with pytest.raises(ValueError, match=r"^shadow: std is a share of the run between 0 and 0.289, got 0.3$"):
        Shadow(std=0.3)
    with pytest.raises(ValueError, match=r"^shadow: every must be at least 1"):
        Shadow(every=0)
    with pytest.raises(ValueError, match=r"^this shadow follows no module yet"):
        Shadow().module  # noqa: B018
