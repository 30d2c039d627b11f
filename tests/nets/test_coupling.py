"""The coupling flow: invertible, with the determinant that autograd finds, and a density that is its samples'."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kedge.nets.coupling import CouplingFlow

f64 = torch.float64
SIZES = [(1, 2), (2, 1), (2, 0), (5, 3)]
every_size = pytest.mark.parametrize(("dim", "cond"), SIZES)


def flow(dim: int, cond: int, *, std: float = 0.3) -> CouplingFlow:
    """Off its start: every parameter is random."""
    torch.manual_seed(0)
    made = CouplingFlow(dim, cond, layers=4, hidden=(16, 16)).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=std)
    return made


def inputs(n: int, dim: int, cond: int) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(n, dim, generator=generator, dtype=f64)
    return z, torch.randn(n, cond, generator=generator, dtype=f64) if cond else None


@every_size
def test_the_determinant_is_autograds_and_the_inverse_exact(dim: int, cond: int) -> None:
    made, (z, y) = flow(dim, cond), inputs(6, dim, cond)
    x, log_det = made(z, y)
    assert float((x - z).detach().abs().max()) > 0.1
    for i in range(6):
        y_i = None if y is None else y[i : i + 1]
        jacobian: Any = torch.autograd.functional.jacobian(lambda z, y_i=y_i: made(z[None], y_i)[0][0], z[i])
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(jacobian)[1], rtol=1e-9, atol=1e-9)
    back, minus = made.inverse(x, y)
    torch.testing.assert_close(back, z, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(minus, -log_det, rtol=1e-9, atol=1e-9)


@every_size
def test_it_begins_as_the_identity(dim: int, cond: int) -> None:
    made, (z, y) = CouplingFlow(dim, cond).double(), inputs(4, dim, cond)
    x, log_det = made(z, y)
    torch.testing.assert_close(x, z)
    torch.testing.assert_close(log_det, torch.zeros(4, dtype=f64))


def test_its_density_integrates_to_one() -> None:
    """Over a grid, for two values of y."""
    made = flow(2, 1, std=0.15)
    line = torch.linspace(-12, 12, 241, dtype=f64)
    x = torch.cartesian_prod(line, line)
    for y in (-1.0, 1.0):
        log_p = made.log_prob(x, torch.full((len(x), 1), y, dtype=f64)).detach()
        assert float(log_p.exp().sum()) * 0.01 == pytest.approx(1, abs=1e-3)


def test_its_density_is_that_of_its_samples() -> None:
    """`E[-log q]` of samples is the entropy `D/2 (1 + log 2 pi) + E log |det|` of the same normals."""
    made = flow(2, 1)
    y = torch.full((5000, 1), 0.5, dtype=f64)
    x = made.sample(5000, y, seeds=3)
    z, minus = made.inverse(x, y)
    entropy = 1 + math.log(2 * math.pi) - minus
    difference = (-made.log_prob(x, y) - entropy).detach()
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / 5000**0.5
    assert float(z.detach().std()) == pytest.approx(1, abs=4 / (2 * 10_000) ** 0.5)
    again = made.sample(3, y[:3], seeds=[7, 8, 9])
    torch.testing.assert_close(made.sample(1, y[:1], seeds=[8])[0], again[1])


def test_every_entry_hears_y_and_every_other() -> None:
    made, (z, y) = flow(5, 3), inputs(1, 5, 3)
    by_z: Any = torch.autograd.functional.jacobian(lambda z: made(z, y)[0][0], z)
    by_y: Any = torch.autograd.functional.jacobian(lambda y: made(z, y)[0][0], y)
    assert by_z.shape == (5, 1, 5)
    assert bool((by_z.abs() > 1e-9).all() and (by_y.abs() > 1e-9).all())


def test_scales_stay_within_their_limit() -> None:
    made = CouplingFlow(2, 1, layers=1, hidden=(4,), limit=0.5).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=30.0)
    _, log_det = made(*inputs(50, 2, 1))
    assert 0.4 < float(log_det.detach().abs().max()) <= 0.5


def test_what_cannot_be_is_said() -> None:
    z, y = inputs(4, 2, 1)
    with pytest.raises(ValueError, match=r"expected \[B, 3\], got \[4, 2\]"):
        CouplingFlow(3)(z)
    with pytest.raises(ValueError, match=r"y must be \[4, 2\], got \[4, 1\]"):
        CouplingFlow(2, 2).double()(z, y)
    with pytest.raises(ValueError, match=r"y must be None, got \[4, 1\]"):
        CouplingFlow(2).double()(z, y)
    with pytest.raises(ValueError, match="limit positive"):
        CouplingFlow(2, limit=0.0)
    with pytest.raises(ValueError, match="layers must be at least 1"):
        CouplingFlow(2, layers=0)
