"""Functions of a level: a float and a tensor give the same, infinities included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch

from kedge import elementary as el

INF = math.inf
POINTS = {
    "sin": [-2.0, 0.0, 0.3, 1.5],
    "cos": [-2.0, 0.0, 0.3, 1.5],
    "tan": [-1.0, 0.0, 0.3, 1.5],
    "asin": [-1.0, 0.0, 0.3, 1.0],
    "atan": [-INF, -2.0, 0.0, 1e8, INF],
    "sqrt": [0.0, 1e-300, 2.0, INF],
    "exp": [-INF, -800.0, -1.0, 0.0, 5.0, 709.5, 710.0, INF],
    "log": [0.0, 1e-300, 1.0, 7.0, INF],
    "expm1": [-INF, -1e-12, 0.0, 1e-12, 3.0],
    "softplus": [-INF, -800.0, -40.0, -1.0, 0.0, 1.0, 40.0, 800.0, INF],
}


def functions() -> list[tuple[str, Callable[[Any], Any]]]:
    return [(name, getattr(el, name)) for name in POINTS]


@pytest.mark.parametrize(("name", "f"), functions())
def test_float_and_tensor_agree(name: str, f: Callable[[Any], Any]) -> None:
    points = POINTS[name]
    together = f(torch.tensor(points, dtype=torch.float64))
    for point, value in zip(points, together.tolist(), strict=True):
        alone = f(point)
        assert isinstance(alone, float)
        assert alone == value or alone == pytest.approx(value, rel=4e-16, abs=0), (point, alone, value)


def test_nan_stays_nan() -> None:
    for name, f in functions():
        assert math.isnan(f(math.nan)), name
    assert math.isnan(el.log(-1.0))


@pytest.mark.parametrize("point", [-700.0, -40.0, -1e-9, 0.0, 1e-9, 1.0, 40.0])
def test_softplus_does_not_cancel(point: float) -> None:
    with mpmath.workdps(50):
        exact = float(mpmath.log1p(mpmath.exp(mpmath.mpf(point))))
    assert el.softplus(point) == pytest.approx(exact, rel=1e-15, abs=0)
    assert el.softplus(torch.tensor(point, dtype=torch.float64)).item() == pytest.approx(exact, rel=1e-15, abs=0)


def test_ratio_has_the_infinities_of_tensors() -> None:
    for a in (-2.0, 0.0, 3.0):
        for b in (-1.0, 0.0, 2.0):
            expected = (torch.tensor(a, dtype=torch.float64) / b).item()
            value = el.ratio(a, b)
            assert value == expected or (math.isnan(value) and math.isnan(expected)), (a, b)
            assert torch.equal(el.ratio(torch.tensor([a]), b).isnan(), torch.tensor([math.isnan(expected)]))


def test_clip() -> None:
    assert [el.clip(v, -1.0, 2.0) for v in (-INF, 0.5, INF)] == [-1.0, 0.5, 2.0]
    assert el.clip(torch.tensor([-INF, 0.5, INF]), -1.0, 2.0).tolist() == [-1.0, 0.5, 2.0]


def test_where_takes_floats_and_tensors_on_either_side() -> None:
    condition = torch.tensor([True, False])
    one, two = torch.ones(2, dtype=torch.float64), torch.full((2,), 2.0, dtype=torch.float64)
    assert el.where(True, 1.0, 2.0) == 1.0
    assert el.where(False, 1.0, 2.0) == 2.0
    for yes in (1.0, one):
        for no in (2.0, two):
            assert el.where(condition, yes, no).tolist() == [1.0, 2.0]
            assert el.where(condition, yes, no).dtype == torch.float64
