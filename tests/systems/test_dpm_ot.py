"""DPM-OT: an optimal transport map stands for the first steps, for a ring of eight modes with its exact denoiser."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import kedge
from kedge.distill import Transport, store_transport, stored_transport, transport
from kedge.errors import InputError
from kedge.exact import GaussianMixture
from kedge.walk.grids import LogSNR
from kedge.walk.solvers import DDIM, DDPM
from walk.oracles import PATHS, f64

pytestmark = pytest.mark.system

VP, VE = PATHS["VP"], PATHS["VE"]
STD, SCALE, NFE, COUNT = 0.005**0.5, 0.3, 10, 4000


@cache
def law() -> GaussianMixture:
    angle = torch.arange(8, dtype=f64) * math.pi / 4
    return GaussianMixture([1.0] * 8, torch.stack([angle.cos(), angle.sin()], 1), [STD**2] * 8)


@cache
def fitted() -> Transport:
    return transport(VP, law().sample(1000, 1), SCALE, samples=4000, iterations=120)


def mixed(x: Tensor) -> float:
    """The share of samples that are more than three standard deviations from every mode."""
    return float(((x[:, None] - law().means).norm(dim=2).min(1).values > 3 * STD).double().mean())


def sliced(x: Tensor) -> float:
    """The sliced 2-Wasserstein distance to as many samples of the law."""
    side = torch.linspace(0, math.pi, 33, dtype=f64)[:-1]
    ways, y = torch.stack([side.cos(), side.sin()]), law().sample(len(x), 77)
    return float(((x @ ways).sort(0).values - (y @ ways).sort(0).values).square().mean().sqrt())


def nearest(x: Tensor) -> float:
    """The mean distance to the data that the map was made of."""
    return float(torch.cdist(x, law().sample(1000, 1)).min(1).values.mean())


def test_ten_evaluations_leave_fewer_samples_between_the_modes() -> None:
    D, grid = law().denoiser(VP), LogSNR(NFE, 0.02, SCALE)
    ddim = kedge.sample(D, VP.prior((COUNT, 2), 5, dtype=f64), LogSNR(NFE, 0.02), DDIM())
    ours = kedge.sample(D, fitted().start(COUNT, 3), grid, DDIM())
    two = kedge.sample(D, fitted().start(COUNT, 3, top=2), grid, DDPM(), seeds=4)
    for name, x in (("DDIM", ddim), ("OT, DDIM", ours), ("OT of two, DDPM", two), ("the law", law().sample(COUNT, 9))):
        print(f"{name}: between {mixed(x):.4f}, sliced W2 {sliced(x):.3f}, to the data {nearest(x):.4f}")
    for x in (ours, two):
        assert mixed(x) <= 0.3 * mixed(ddim)
        near = torch.cdist(x, law().means).argmin(1)
        assert float((torch.bincount(near, minlength=8) / COUNT * 8 - 1).abs().max()) < 0.2
    assert sliced(ours) <= sliced(ddim)
    # what the map costs: samples are nearer to the data than new ones of the law are
    assert 0.5 * nearest(law().sample(COUNT, 9)) < nearest(two) < nearest(law().sample(COUNT, 9))


def test_on_a_line_each_point_gets_its_share() -> None:
    """There the cells are intervals between quantiles."""
    x = torch.randn(20, 1, dtype=f64, generator=torch.Generator().manual_seed(2))
    found = transport(VE, x, 0.01, samples=4000, iterations=300)
    y, order = found.points[:, 0].sort()
    h = found.heights[order]
    below = torch.special.ndtr(-h.diff() / y.diff())
    shares = torch.diff(torch.cat([torch.zeros(1), below, torch.ones(1)])) * 20
    assert float((shares - 1).abs().max()) < 0.02
    z = torch.special.ndtri((torch.arange(20, dtype=f64) + 0.5) / 20)[:, None]
    assert torch.equal(found.points[found.cells(z)[:, 0], 0], y)


def test_its_cost_is_that_of_an_exact_assignment() -> None:
    """By Kantorovich's dual, `E |z|^2 + E |y|^2 - 2 (E u_h(z) - mean h)`: no heights give more than the assignment."""
    found = transport(VP, law().sample(200, 1), SCALE, samples=4000, iterations=150)
    z = torch.randn(1000, 2, dtype=f64, generator=torch.Generator().manual_seed(0))
    y = found.points.repeat_interleave(5, 0)
    costs = torch.cdist(z, y).square()
    exact = float(costs[linear_sum_assignment(costs.numpy())].mean())
    u = (z @ found.points.T + found.heights).max(1).values.mean() - found.heights.mean()
    dual = float(z.square().sum(1).mean() + y.square().sum(1).mean() - 2 * u)
    assert dual <= exact
    assert dual >= 0.98 * exact


def test_noise_on_the_singular_set_is_drawn_anew() -> None:
    """Between two points of different modes there would be starts that no data lead to."""
    centres = VP.alpha(VP.time_at(0.05)) * law().means
    sharp = transport(VP, law().sample(200, 1), 0.05, samples=2000, iterations=60, angle=0.4)

    def between(found: Transport) -> float:
        x = found.start(2000, 1, top=2)
        return float((torch.cdist(x, centres).min(1).values > 0.3).double().mean())

    plain = between(replace(sharp, limit=math.inf))
    print(between(sharp), plain)
    assert plain > 0.005
    assert between(sharp) == 0


def test_between_neighbours_starts_are_as_noisy_as_their_level() -> None:
    """Data at one place: all there is is noise."""
    found = transport(VE, torch.zeros(400, 2), 1.0, samples=2000, iterations=40, angle=1.0)
    assert abs(float(found.points.square().mean()) - 1) < 0.2  # 4 standard deviations of 800 squares
    for top in (1, 2):
        spread = found.start(4000, 0, top).square().mean()
        assert abs(float(spread / found.points.square().mean()) - 1) < 0.06


def test_a_start_is_its_seeds_whatever_the_batch(tmp_path: Path) -> None:
    found, seeds = fitted(), [5, 9, 11]
    store_transport(tmp_path, found)
    for one in (found, stored_transport(tmp_path)):
        together = one.start(3, seeds, top=2)
        for i, seed in enumerate(seeds):
            assert torch.equal(one.start(1, [seed], top=2)[0], together[i])
    assert (found.scale, found.start(2).shape) == (SCALE, (2, 2))
    with pytest.raises(InputError, match="2 or more, within the path"):
        transport(VP, torch.zeros(1, 2), 0.3)
    with pytest.raises(ValueError, match="top=1 or 2"):
        found.start(2, top=3)
