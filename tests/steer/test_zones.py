"""Zones: how far it is out of them, and which way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kedge.errors import InputError
from kedge.steer import Box, Disc, Polyline, Zone
from kedge.steer.zones import crossings, distance, drawn, length, total

f64 = torch.float64
STILL = torch.tensor([1.0, 1.0], dtype=f64)
"""Where a segment that does not move stays: all its points are one."""


def trespass(zone: Zone, a: object, b: object, margin: float = 0.1) -> Tensor:
    return zone.trespass(torch.tensor(a, dtype=f64), torch.tensor(b, dtype=f64), margin)


def test_out_of_a_box_by_the_nearest_side() -> None:
    box = Box(0, 0, 4, 2)
    inside, outside = [[3.5, 1.0]], [[4.2, 1.0]]
    assert float(trespass(box, inside, inside)) == pytest.approx(0.6)
    assert float(trespass(box, outside, outside)) == 0.0
    assert float(trespass(box, [[4.05, 1.0]], [[4.05, 1.0]])) == pytest.approx(0.05)  # within the margin
    p = torch.tensor([[3.5, 1.0]], dtype=f64, requires_grad=True)
    (slope,) = torch.autograd.grad(box.trespass(p, p, 0.1).sum(), p)
    torch.testing.assert_close(slope, torch.tensor([[-1.0, 0.0]], dtype=f64))


def test_out_of_a_disc_along_the_radius() -> None:
    disc = Disc(1, 1, 0.5)
    assert float(trespass(disc, [[1.3, 1.4]], [[1.3, 1.4]])) == pytest.approx(0.1)
    assert float(trespass(disc, [[2.0, 1.0]], [[2.0, 1.0]])) == 0.0
    p = torch.tensor([[1.3, 1.4]], dtype=f64, requires_grad=True)
    (slope,) = torch.autograd.grad(disc.trespass(p, p, 0.1).sum(), p)
    torch.testing.assert_close(slope, torch.tensor([[-0.6, -0.8]], dtype=f64))


def test_between_two_points_it_is_looked_at_as_well() -> None:
    """Both ends of the segment are outside, what lies between is not: a sixth of the way each, after the first."""
    found = float(trespass(Disc(0, 0, 0.5), [[-1.0, 0.0]], [[1.0, 0.0]], 0.0))
    assert found == pytest.approx((0.5 - 1 / 3 + 0.5 + 0.5 - 1 / 3) / 6)


def test_a_segment_that_crosses_a_line_goes_to_its_nearer_end() -> None:
    wall = Polyline.of([[0, 0], [0, 3], [1, 3]])
    crosses = trespass(wall, [[-1.0, 1.0], [-1.0, 2.5], [0.3, 2.5]], [[1.0, 1.0], [1.0, 2.5], [0.3, 3.5]])
    torch.testing.assert_close(crosses, torch.tensor([1.1, 1.6, 0.8], dtype=f64))  # of a line that is 4 long
    a = torch.tensor([[-1.0, 1.0]], dtype=f64, requires_grad=True)
    (slope,) = torch.autograd.grad(wall.trespass(a, torch.tensor([[1.0, 1.0]], dtype=f64), 0.1).sum(), a)
    assert slope[0, 1] == pytest.approx(0.5)  # down, to the end at the origin, by half of what the point moves


def test_a_segment_beside_a_line_keeps_its_distance() -> None:
    wall = Polyline.of([[0, 0], [0, 3]])
    near = [[0.06, 1.0]]
    assert float(trespass(wall, near, near)) == pytest.approx(0.04, abs=1e-8)
    assert float(trespass(wall, [[0.2, 1.0]], [[0.2, 2.0]])) == 0.0
    assert float(trespass(wall, [[-1.0, 3.5]], [[1.0, 3.5]])) == 0.0  # past its end


def test_crossings_against_random_lines() -> None:
    """Whatever crosses a segment has its ends on both sides of it, and the other way round."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 500, 2, generator=generator, dtype=f64)
    line = torch.tensor([[-0.5, -0.2], [0.7, 0.4]], dtype=f64)
    where, crosses = crossings(a, b, line)

    def side(p: Tensor, q: Tensor, r: Tensor) -> Tensor:
        u, v = q - p, r - p
        return (u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]).sign()

    apart = (side(line[0], line[1], a) != side(line[0], line[1], b)) & (side(a, b, line[0]) != side(a, b, line[1]))
    assert torch.equal(crosses, apart)
    assert 50 < int(crosses.sum()) < 450
    at = line[0] + where[crosses, None] * (line[1] - line[0]) / total(line)
    off = (b - a)[crosses]
    gap = (at - a[crosses])[:, 0] * off[:, 1] - (at - a[crosses])[:, 1] * off[:, 0]
    assert gap.abs().max() < 1e-9
    assert (where[~crosses] == 0).all()


def test_lengths_and_distances() -> None:
    corner = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]], dtype=f64)
    assert float(total(corner)) == 7.0
    p = torch.tensor([[1.0, 2.0], [4.0, 5.0], [2.5, 2.0]], dtype=f64)
    torch.testing.assert_close(distance(p, corner), torch.tensor([2.0, math.sqrt(2), 0.5], dtype=f64))
    origin = torch.zeros(1, 2, dtype=f64, requires_grad=True)
    (slope,) = torch.autograd.grad(length(origin).sum(), origin)
    assert (slope == 0).all()


def test_what_cannot_be_drawn() -> None:
    for bad in ([], [1.0, 2.0], [[1.0, 2.0, 3.0]], [[0.0, math.nan]], [["a", "b"]]):
        with pytest.raises(InputError, match="points are"):
            drawn(bad)
    with pytest.raises(InputError, match="two or more"):
        Polyline.of([[0, 0], [0, 0]])
    with pytest.raises(InputError, match="less than"):
        Box(1, 0, 1, 2)
    with pytest.raises(InputError, match="positive"):
        Disc(0, 0, 0)
