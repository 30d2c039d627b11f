"""Guidance toward an objective in the data's own units, where the answer is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from every_path import between, every_path
from kedge.exact import GaussianMixture
from kedge.guide import Toward
from kedge.guide.toward import correlation
from kedge.paths import GaussianPath, Trig

f64 = torch.float64
UNIT = GaussianMixture([1.0], torch.zeros(1, 3, dtype=f64), [1.0])


def state(*shape: int) -> Tensor:
    return torch.randn(shape or (5, 3), generator=torch.Generator().manual_seed(3), dtype=f64)


def uneven(x: Tensor, t: Any = 0.0, cond: Any = None) -> Tensor:
    return (x**4).sum(-1) / 4 + x[:, 0].sin()


def slope(x: Tensor) -> Tensor:
    found = x**3
    found[:, 0] += x[:, 0].cos()
    return found


@every_path
@pytest.mark.parametrize("onto", ["score", "eps"])
def test_at_the_clean_estimate_of_unit_data_is_through_it(path: GaussianPath, onto: Any) -> None:
    """The Jacobian that it takes is that of unit normal data: there, both are the same, whatever the objective."""
    denoiser = UNIT.denoiser(path)
    for share in (0.2, 0.5, 0.8):
        t, x_t = between(path, share), state()
        clean, through = (Toward(uneven, 0.3, way, onto).on(denoiser)(x_t, t) for way in ("clean", "estimate"))
        assert not torch.allclose(clean, denoiser(x_t, t), rtol=1e-6, atol=0)
        torch.testing.assert_close(clean, through, rtol=1e-9, atol=1e-9)


@every_path
@pytest.mark.parametrize("onto", ["score", "eps"])
def test_it_is_taken_from_the_score_or_added_to_eps(path: GaussianPath, onto: Any) -> None:
    """`score' = score - w grad xi`, `eps' = eps + w grad xi`, with the gradient by the noised state."""
    t, x_t = between(path, 0.4), state()
    before, after = UNIT.denoiser(path)(x_t, t), Toward(uneven, 0.3, "state", onto).on(UNIT.denoiser(path))(x_t, t)
    moved = path.convert(after, x_t, t, "clean", onto) - path.convert(before, x_t, t, "clean", onto)
    sign = -1 if onto == "score" else 1
    torch.testing.assert_close(moved, sign * 0.3 * slope(x_t), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("through", ["state", "estimate", "clean"])
def test_an_objective_speaks_of_the_datas_own_units(through: Any) -> None:
    """`xi(undo(x))` of normalised x: its gradient is multiplied by the scale."""
    path, t, x_t = Trig(), 0.7, state()
    told: list[Any] = []

    def own(x: Tensor, t: Any, cond: Any) -> Tensor:
        told.append((t, cond))
        return uneven(x)

    guide = Toward(own, 0.2, through).measured(lambda x: 2.5 * x + 1.0)
    by_hand = Toward(lambda x, t, cond: uneven(2.5 * x + 1.0), 0.2, through)
    denoiser = UNIT.denoiser(path)
    assert torch.equal(guide.on(denoiser)(x_t, t, "seen"), by_hand.on(denoiser)(x_t, t, "seen"))
    assert told == [(t if through == "state" else 0.0, "seen")]
    assert guide.measured(lambda x: 0 * x) is guide


def test_neighbours_come_along() -> None:
    """`C_ij = e^{-|i - j| / l}` of a pull on one point."""

    def third(x: Tensor, t: Any, cond: Any) -> Tensor:
        return x[:, 2, 0]

    path, x_t = Trig(), state(4, 6, 2)
    law = GaussianMixture([1.0], torch.zeros(1, 6, 2, dtype=f64), [1.0])
    before = law.denoiser(path)(x_t, 0.7)
    alone, along = (Toward(third, 0.1, together=far).on(law.denoiser(path))(x_t, 0.7) - before for far in (0.0, 1.5))
    assert (alone != 0).sum() == 4
    factors = torch.tensor([math.exp(-abs(i - 2) / 1.5) for i in range(6)], dtype=f64)
    torch.testing.assert_close(along[..., 0], factors * alone[:, 2:3, 0], rtol=1e-6, atol=1e-9)
    assert (along[..., 1] == 0).all()
    torch.testing.assert_close(correlation(6, 1.5)[2].double(), factors, rtol=1e-6, atol=0)


@every_path
def test_no_point_goes_further_than_the_noise_leaves_open(path: GaussianPath) -> None:
    """What would go further keeps its direction; what would not stays as it is."""

    def steep(x: Tensor, t: Any, cond: Any) -> Tensor:
        return -1e6 * (3 * x[:, 0, 0] + 4 * x[:, 0, 1]) - 1e-6 * x[:, 1, 0]

    law, x_t, t = GaussianMixture([1.0], torch.zeros(1, 2, 2, dtype=f64), [1.0]), state(3, 2, 2), between(path, 0.5)
    before = law.denoiser(path)(x_t, t)
    free, held = (Toward(steep, most=most).on(law.denoiser(path))(x_t, t) - before for most in (None, 0.5))
    left = path.sigma(t) / math.hypot(path.alpha(t), path.sigma(t))
    direction = torch.tensor([0.6, 0.8], dtype=f64).expand(3, 2)
    torch.testing.assert_close(held[:, 0], 0.5 * left * direction, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(held[:, 1], free[:, 1], rtol=1e-6, atol=0)
    assert (free[:, 0].norm(dim=-1) > 100 * left).all()


def test_weight_zero_asks_for_nothing_and_bad_words_are_refused() -> None:
    def never(*_: Any) -> Tensor:
        raise AssertionError

    x_t, denoiser = state(), UNIT.denoiser(Trig())
    assert torch.equal(Toward(never, 0.0).on(denoiser)(x_t, 0.5), denoiser(x_t, 0.5))
    for together, most in ((-1.0, None), (0.0, 0.0)):
        with pytest.raises(ValueError, match="together is 0 or more"):
            Toward(uneven, together=together, most=most)
