"""Clean, noise, velocity and score: four faces of one estimate."""

from __future__ import annotations

import inspect
import itertools
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from every_path import PATHS, between, every_path
from kedge.paths import GaussianPath, Quantity
from kedge.paths.gaussian import affine, combine, scaled

EPS = torch.finfo(torch.float64).eps
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
numbers = st.floats(-100, 100, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-100)


def faces(path: GaussianPath, t: float, x: Tensor, z: Tensor) -> dict[Quantity, Tensor]:
    """All four in closed form, from their definitions."""
    return {
        "clean": x,
        "eps": z,
        "velocity": path.d_alpha(t) * x + path.d_sigma(t) * z,
        "score": -z / path.sigma(t),
    }


def rounding(path: GaussianPath, t: float, x_t: Tensor, value: Tensor, have: Quantity, want: Quantity) -> Tensor:
    """What a conversion through the clean estimate may lose: a few roundings of each term of each of its two sums, the
    first carried through the second. The terms may be far larger than their sum, and then no formula does better.
    """
    (c, d), (a, b) = path.to_clean(have, t), path.from_clean(want, t)
    of_clean = (c * x_t).abs() + (d * value).abs()
    return 8 * EPS * ((a * x_t).abs() + 2 * abs(b) * of_clean)


@pytest.mark.parametrize("name", PATHS)
@given(share=st.floats(0, 1), x=numbers, z=numbers)
def test_every_quantity_from_every_other(name: str, share: float, x: float, z: float) -> None:
    path = PATHS[name]
    t = between(path, share)
    clean, eps = torch.tensor([[x]], dtype=torch.float64), torch.tensor([[z]], dtype=torch.float64)
    x_t = path.alpha(t) * clean + path.sigma(t) * eps
    values = faces(path, t, clean, eps)
    # x_t itself is rounded: what was put in is the exact answer for an x_t that differs in the last place
    for have, want in itertools.product(QUANTITIES, QUANTITIES):
        converted = path.convert(values[have], x_t, t, have, want)
        allowed = rounding(path, t, x_t, values[have], have, want)
        assert ((converted - values[want]).abs() <= allowed).all(), (have, want, t, converted, values[want], allowed)
        level = torch.full((1,), t, dtype=torch.float64)
        converted = path.convert(values[have], x_t, level, have, want)
        assert ((converted - values[want]).abs() <= allowed).all(), (have, want, "a tensor of levels")


@pytest.mark.parametrize("name", PATHS)
@given(share=st.floats(0, 1), x_t=numbers, value=numbers)
def test_there_and_back(name: str, share: float, x_t: float, value: float) -> None:
    """Of a value that need not fit the state."""
    path = PATHS[name]
    t = between(path, share)
    state, start = torch.tensor([[x_t]], dtype=torch.float64), torch.tensor([[value]], dtype=torch.float64)
    for have, want in itertools.permutations(QUANTITIES, 2):
        there = path.convert(start, state, t, have, want)
        back = path.convert(there, state, t, want, have)
        slope = abs(path.to_clean(want, t)[1] * path.from_clean(have, t)[1])
        allowed = rounding(path, t, state, there, want, have) + slope * rounding(path, t, state, start, have, want)
        assert ((back - start).abs() <= allowed).all(), (have, want, t)


@every_path
def test_the_same_quantity_is_left_alone(path: GaussianPath) -> None:
    value = torch.randn(2, 3)
    for quantity in QUANTITIES:
        assert path.convert(value, torch.full((2, 3), torch.nan), 0.5 * path.t_max, quantity, quantity) is value


@every_path
def test_levels_of_samples_and_of_entries(path: GaussianPath) -> None:
    """One conversion with a level for each entry equals one for each level."""
    generator = torch.Generator().manual_seed(0)
    x_t, value = torch.randn(2, 3, 4, 2, generator=generator, dtype=torch.float64)
    shares = torch.rand(3, 4, generator=generator).tolist()
    t = torch.tensor([[between(path, s) for s in row] for row in shares], dtype=torch.float64)
    for have, want in itertools.permutations(QUANTITIES, 2):
        together = path.convert({"a": value}, {"a": x_t}, t, have, want)["a"]
        for i, j in itertools.product(range(3), range(4)):
            alone = path.convert(value[i : i + 1, j], x_t[i : i + 1, j], float(t[i, j]), have, want)
            torch.testing.assert_close(together[i : i + 1, j], alone, rtol=1e-10, atol=1e-10)
        per_sample = path.convert(value, x_t, t[:, 0], have, want)
        torch.testing.assert_close(per_sample[:, 0], together[:, 0], rtol=1e-12, atol=1e-12)


@every_path
def test_clean_data_is_its_own_estimate(path: GaussianPath) -> None:
    """At time 0, where slopes may be infinite, and whatever the network says there."""
    x_t, value = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for have in ("eps", "velocity", "score"):
        assert torch.equal(path.convert(value, x_t, 0.0, have, "clean"), x_t)
        some = torch.tensor([0.0, 0.5 * path.t_max, 0.0], dtype=torch.float64)
        mixed = path.convert(value, x_t, some, have, "clean")
        assert torch.equal(mixed[::2], x_t[::2])
        assert mixed.isfinite().all()


@every_path
def test_drift_is_the_velocity_of_the_probability_flow(path: GaussianPath) -> None:
    """For a known x the flow is `x_t = alpha x + sigma z` itself: its slope is autograd's."""
    x, z = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for share in (0.0, 0.3, 0.7, 1.0):
        t = between(path, share)
        time = torch.full((3, 4), t, dtype=torch.float64)
        x_t, slope = torch.func.jvp(lambda s: path.perturb(x, s, z), (time,), (torch.ones_like(time),))[:2]
        allowed = rounding(path, t, x_t, x, "clean", "velocity") + 1e-12 * slope.abs()
        assert ((path.drift(x_t, x, t) - slope).abs() <= allowed).all()


def test_unknown_quantities() -> None:
    path = PATHS["Trig"]
    for f in (path.to_clean, path.from_clean):
        with pytest.raises(ValueError, match="unknown quantity 'noise': one of clean, eps, velocity, score"):
            inspect.unwrap(f.__func__)(path, "noise", 0.5)  # as without run-time checks of the annotations


@given(c=st.floats(-1e3, 1e3, allow_subnormal=False))
def test_scaling_by_a_number_is_multiplication(c: float) -> None:
    """To the bit; in half precision torch rounds the number to that first."""
    x = torch.linspace(-3, 3, 50, dtype=torch.float64)
    assert torch.equal(scaled(c, x), c * x)
    assert torch.equal(scaled(c, x.float()), c * x.float())
    for dtype in (torch.float16, torch.bfloat16):
        product = scaled(c, x.to(dtype))
        assert product.dtype == dtype
        torch.testing.assert_close(product, torch.tensor(c).to(dtype) * x.to(dtype), rtol=0, atol=0)


def test_sums_of_multiples() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y, z = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    a: list[Any] = [0.5, torch.tensor([1.0, 2.0, 3.0, 4.0])]
    for a_1, a_2, a_3 in itertools.product(a, a, a):
        f_1, f_2, f_3 = (torch.as_tensor(v, dtype=torch.float64).reshape(-1, 1) for v in (a_1, a_2, a_3))
        expected = f_1 * x + f_2 * y
        torch.testing.assert_close(affine(a_1, x, a_2, y), expected, rtol=4 * EPS, atol=4 * EPS)
        torch.testing.assert_close(affine(a_1, {"q": x}, a_2, {"q": y})["q"], expected, rtol=4 * EPS, atol=4 * EPS)
        expected = expected + f_3 * z
        terms = (a_1, x), (a_2, y), (a_3, z)
        torch.testing.assert_close(combine(*terms), expected, rtol=8 * EPS, atol=8 * EPS)
        trees = [(c, {"q": v}) for c, v in terms]
        torch.testing.assert_close(combine(*trees)["q"], expected, rtol=8 * EPS, atol=8 * EPS)
