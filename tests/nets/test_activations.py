"""Mish is the same number however it is computed, and is differentiated by torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kedge.nets.activations import Mish, mish

X = torch.cat([torch.linspace(-90, 90, 3601), torch.tensor([-1e4, -20.0, 0.0, 20.0, 1e4])])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_gradients_it_is_the_same(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    kept = x.clone()
    exact = X.double() * torch.tanh(torch.log1p(X.double().exp()).where(X < 50, X.double()))
    with torch.no_grad():
        found = mish(x)
    assert found.dtype == dtype
    close = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(found.double(), exact, rtol=close, atol=close)
    assert x.equal(kept), "the input is left as it was"


def test_with_gradients_it_is_torch_s() -> None:
    x = X.double().requires_grad_()
    (slope,) = torch.autograd.grad(mish(x).sum(), x)
    (expected,) = torch.autograd.grad(functional.mish(x).sum(), x)
    assert slope.equal(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    with torch.no_grad():
        assert mish(X[:-1].to(dtype)).equal(functional.mish(X[:-1].to(dtype)))


def test_an_exported_mish_is_the_same_function() -> None:
    """Without softplus, which other runtimes are slow at."""
    with torch.no_grad():
        program = torch.export.export(Mish(), (X,), strict=False)
        assert program.module()(X).equal(mish(X))
    names = " ".join(str(node.target) for node in program.graph.nodes)
    assert "exp" in names
    assert "mish" not in names
