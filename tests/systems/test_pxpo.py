"""PXPO: each pixel's reward moves that pixel's density alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from align.gaussian_walk import MEAN, PATH, STD
from kedge import Walk, grids, solvers
from kedge.align import Clamp, Entries, OwnWalks, PolicyGradient, Relative, Standard
from kedge.align.policy import Credit
from kedge.train import Tick

pytestmark = pytest.mark.system

SIDE = 4
PIXELS = SIDE * SIDE
SIGN = torch.ones(SIDE, SIDE, dtype=torch.float64)
SIGN[:, : SIDE // 2] = -1
"""Dark on the left, bright on the right."""


class Picture(nn.Module):
    """The exact denoiser of independent pixels, with a shift for each of them at each level: its own for each walk
    where that is asked, so that every walk shows its own gradient.
    """

    def __init__(self, levels: list[float], walks: int = 1) -> None:
        super().__init__()
        self.path, self.times = PATH, levels
        self.b = nn.Parameter(torch.zeros(len(levels), walks, SIDE, SIDE, dtype=torch.float64))

    def forward(self, x: Tensor, t: float) -> Tensor:
        alpha, sigma = PATH.alpha(t), PATH.sigma(t)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return MEAN + gain * (x - alpha * MEAN) + self.b[self.times.index(t)]


def picture(walks: int = 1) -> Walk:
    grid = grids.LogSNR(4, 0.1, 20.0)
    return Walk(Picture([float(t) for t in grid.levels(PATH).rows()[:-1]], walks), solvers.DDIM(1.0), grid)


def by_pixel(x: Any, cond: Any = None) -> Tensor:
    return SIGN.to(x) * x


def slopes(credit: Any) -> tuple[Tensor, Tensor]:
    """`[levels, walks, pixels]`, one gradient a walk; and the correlation of what each step draws with its pixel's end,
    squared.
    """
    made = picture(4000)
    batch = OwnWalks(made, (SIDE, SIDE), 4000, by_pixel, dtype=torch.float64).next(Tick(0, 5))
    method = PolicyGradient(made, [Relative()], clip=None, credit=credit)
    (g,) = torch.autograd.grad(method(batch, Tick(0, 5))[0].sum(), made.denoiser.b)
    end = batch.record.x[-1]
    assert isinstance(end, Tensor)
    shares = []
    for i in batch.record.random_steps:
        kernel: Any = batch.record.steps[i].kernel
        z = ((batch.record.steps[i].drawn - kernel.mean) / kernel.std).flatten()
        shares.append(torch.corrcoef(torch.stack([z, end.flatten()]))[0, 1] ** 2)
    return -g[:-1].flatten(2), torch.stack(shares)


def test_it_is_unbiased_and_has_a_share_of_the_noise() -> None:
    """Of D pixels alike, with c the squared correlation of a step's draw with the end of its pixel, the variance of the
    whole reward's gradient is `D + c` and that of the pixel's own `1 + c`: some D times less where c is small.
    """
    (whole, c), (own, _) = slopes("walk"), slopes(Entries())
    sign = SIGN.flatten()
    for k in range(len(c)):
        a, b = whole[k] * sign, own[k] * sign
        error = a.mean(1).std() / 4000**0.5
        assert abs(float(a.mean() - b.mean())) < 4 * float(error), "the same mean"
        assert float(b.mean()) > 10 * float(b.std()) / (4000 * PIXELS) ** 0.5
        ratio = float(a.var() / b.var())
        # two variances of 4000 pictures that share all of their noise: some 3% each
        assert ratio == pytest.approx(float((PIXELS + c[k]) / (1 + c[k])), rel=0.15)
    assert float(whole.var() / own.var()) > PIXELS / 2


def test_a_pixel_without_a_reward_stays_as_it_is() -> None:
    made = picture()
    first = torch.zeros(SIDE, SIDE, dtype=torch.float64)
    first[0, 0] = 1.0

    def corner(x: Any, cond: Any = None) -> Tensor:
        return first * x

    choices: tuple[tuple[Credit, bool], ...] = ((Entries(), True), ("walk", False))
    for credit, still in choices:
        method = PolicyGradient(made, [Relative(), Standard()], credit=credit)
        batch = OwnWalks(made, (SIDE, SIDE), 32, corner, dtype=torch.float64).next(Tick(0, 5))
        (g,) = torch.autograd.grad(method(batch, Tick(0, 5))[0].mean(), made.denoiser.b)
        assert g[:-1, 0, 0, 0].abs().min() > 0
        assert (float(g[:, 0].flatten(1)[:, 1:].abs().max()) == 0) is still


def rise(credit: Any) -> list[float]:
    """Of the mean reward after 10 and after 30 batches of 16."""
    made, curve = picture(), []
    method = PolicyGradient(made, [Relative(), Standard(), Clamp(5.0)], credit=credit)
    source = OwnWalks(made, (SIDE, SIDE), 16, by_pixel, dtype=torch.float64)
    z = made.path.prior((200, SIDE, SIDE), seeds=3).double()
    start = float(by_pixel(made.run(z, seeds=4).x).sum((1, 2)).mean())
    optimiser = torch.optim.SGD([made.denoiser.b], lr=0.02)
    for step in range(30):
        optimiser.zero_grad()
        method(source.next(Tick(step, 0)), Tick(step, 0))[0].mean().backward()
        optimiser.step()
        if step in (9, 29):
            curve.append(float(by_pixel(made.run(z, seeds=4).x).sum((1, 2)).mean()) - start)
    return curve


def test_it_takes_fewer_pictures() -> None:
    """With advantages of unit size the signal of a pixel is 1 / sqrt(D) of what it is by itself: four times the steps
    to the same reward, and their noise.
    """
    own, whole = rise(Entries()), rise("walk")
    assert own[0] > whole[1], "after 10 batches, after 30"
    assert own[1] > 3 * whole[1]
