"""Objectives: what they say of trajectories that are made by hand, and what they would rather see."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kedge.errors import InputError
from kedge.steer import Along, Box, ComeTo, Disc, Objective, StayOff, Together
from kedge.steer.objectives import at_length, place_on

f64 = torch.float64
CORNER = [[0, 0], [3, 0], [3, 4]]


def straight(points: int = 8, to: tuple[float, float] = (7.0, 0.0), width: int = 4) -> Tensor:
    """`[1, points, width]` from the origin."""
    x = torch.zeros(1, points, width, dtype=f64)
    x[0, :, :2] = torch.linspace(0, 1, points, dtype=f64)[:, None] * torch.tensor(to, dtype=f64)
    return x


def bent(points: int = 8) -> Tensor:
    """Along the corner, at even steps."""
    x = torch.zeros(1, points, 4, dtype=f64)
    x[0, :, :2] = at_length(torch.tensor(CORNER, dtype=f64), torch.linspace(0, 7, points, dtype=f64))
    return x


def test_to_a_point() -> None:
    x = straight()
    assert float(ComeTo((7.0, 2.0))(x)) == pytest.approx(2.0)
    assert float(ComeTo((3.0, 1.0))(x)) == pytest.approx(math.hypot(4, 1))
    assert float(ComeTo((3.0, 1.0), "any")(x)) == pytest.approx(1.0)
    assert float(ComeTo((7.0, 0.0, 0.0, 1.0))(x)) == pytest.approx(1.0)  # at rest counts where it is said
    liked = ComeTo((2.0, 4.0)).example(x + 1)
    torch.testing.assert_close(liked[0, :, :2], straight(8, (1.0, 3.0))[0, :, :2] + 1)
    assert (liked[..., 2:] == 1).all()


def test_along_a_sketch_point_by_point() -> None:
    to = Along.of(CORNER)
    assert float(to(bent())) == pytest.approx(0, abs=1e-8)
    off = bent()
    off[..., :2] += torch.tensor([0.3, 0.4], dtype=f64)
    off[..., 2:] += 5
    assert float(to(off)) == pytest.approx(0.5)
    by_hand = (straight()[..., :2] - bent()[..., :2]).norm(dim=-1).mean()
    assert float(to(straight())) == pytest.approx(float(by_hand))
    torch.testing.assert_close(to.example(off)[..., :2], bent()[..., :2])
    assert (to.example(off)[..., 2:] == 5).all()


def test_at_a_pace_what_comes_after_the_end_is_free() -> None:
    to = Along.of(CORNER, pace=2.0)
    x = straight()
    x[0, :4, :2] = torch.tensor([[0, 0], [2, 0], [3, 1], [3, 3]], dtype=f64)
    x[0, 4, :2] = torch.tensor([3.0, 4.0])  # the first point past the end is to be at the end
    x[0, 5:, :2] = 100.0
    assert float(to(x)) == pytest.approx(0, abs=1e-8)
    x[0, 4, 1] += 1
    assert float(to(x)) == pytest.approx(0.2)
    assert (to.example(x)[0, 5:, :2] == torch.tensor([3.0, 4.0])).all()


def test_onward_from_where_we_are() -> None:
    """Half of the sketch lies behind: what is left of it is spread over the points."""
    to = Along.of(CORNER, onward=True)
    x = straight()
    x[0, :, :2] = at_length(torch.tensor(CORNER, dtype=f64), torch.linspace(3.5, 7, 8, dtype=f64))
    assert float(to(x)) == pytest.approx(0, abs=1e-8)
    assert float(Along.of(CORNER)(x)) > 1
    line = torch.tensor(CORNER, dtype=f64)
    places = place_on(torch.tensor([[-1.0, -1.0], [2.0, 0.4], [3.5, 2.0], [4.0, 9.0]], dtype=f64), line)
    torch.testing.assert_close(places, torch.tensor([0.0, 2.0, 5.0, 7.0], dtype=f64))


def test_out_of_a_zone_in_all_segments() -> None:
    x = straight(15)  # half a unit a segment
    off = StayOff(Disc(3.25, 0.0, 0.5), margin=0.0)
    each = off.zone.trespass(x[:, :-1, :2], x[:, 1:, :2], 0.0)
    assert float(off(x)) == pytest.approx(float(each.sum()))
    assert float(off(x)) > float(each.max()) > 0
    assert float(off(x + torch.tensor([0.0, 1.0, 0.0, 0.0]))) == 0.0
    assert off.example(x) is None


def test_sums_and_multiples() -> None:
    a, b, c = ComeTo((7.0, 2.0)), Along.of(CORNER), StayOff(Box(1, -1, 2, 1))
    x, whole = straight(), 0.5 * (a + 2 * b) + c * 3
    assert isinstance(whole, Together)
    assert [w for w, _ in whole.parts] == [0.5, 1.0, 3.0]
    torch.testing.assert_close(whole(x), 0.5 * a(x) + b(x) + 3 * c(x))
    assert torch.equal((c + b).example(x), b.example(x))
    assert (c + c).example(x) is None


@pytest.mark.parametrize(
    "objective", [ComeTo((7.0, 0.0)), ComeTo((1.0, 0.0), "any"), Along.of(CORNER), StayOff(Box(0, 0, 1, 1))]
)
def test_gradients_are_finite_where_nothing_is_left_to_do(objective: Objective) -> None:
    for x in (straight(), bent()):
        at = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(objective(at).sum(), at)
        assert slope.isfinite().all()
        assert (slope[..., 2:] == 0).all()


def test_the_gradient_leads_there() -> None:
    x = straight().requires_grad_()
    (slope,) = torch.autograd.grad(Along.of(CORNER)(x).sum(), x)
    toward = bent()[..., :2] - x.detach()[..., :2]
    apart = toward.norm(dim=-1) > 1e-6
    torch.testing.assert_close(-8 * slope[..., :2][apart], (toward / toward.norm(dim=-1, keepdim=True))[apart])


def test_what_cannot_be_asked() -> None:
    with pytest.raises(InputError, match="two or more"):
        Along.of([[1, 2]])
    with pytest.raises(InputError, match="positive pace"):
        Along.of(CORNER, pace=0)
