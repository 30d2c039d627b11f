"""Climbing a learned critic: its gradient where that is known, and a step of a reward that has none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kedge.align import ClimbCritic
from kedge.exact import Corrected, GaussianMixture
from kedge.fit import DenoisingLoss, denoising_error
from kedge.fit.proposals import LogNormal
from kedge.paths import Trig
from kedge.train import AdamW, Batches, Tick, Trainer

pytestmark = pytest.mark.system

PATH = Trig(sigma_data=1.0)
LAW = GaussianMixture([0.5, 0.5], torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), [0.04, 0.04])
PROPOSAL = LogNormal(0.0, 0.8)
C = torch.tensor([0.7, -0.4], dtype=torch.float64)


class Exactly(nn.Module):
    """`Q(x) = c . x - |x|^2 / 2`, known."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Parameter(C.clone())

    def forward(self, x: Tensor) -> Tensor:
        """The value."""
        return x @ self.c - (x**2).sum(1) / 2


def twice(x: Any, cond: Any = None) -> Tensor:
    return 2 * x[:, 0]


def model() -> Corrected:
    made = Corrected(LAW, PATH, width=16, seed=0)
    nn.init.normal_(made.last.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    return made


def test_with_an_exact_critic_it_is_the_analytic_gradient() -> None:
    """`d/dtheta -w discount^scale Q(x_hat) = -w discount^scale (c - x_hat) . d x_hat / d theta`, beside the loss's."""
    denoiser = model().double()
    loss = DenoisingLoss(denoiser, PROPOSAL)
    climbing = ClimbCritic(loss, Exactly(), twice, weight=0.3, discount=0.6)
    x, tick = LAW.sample(32, seeds=1), Tick(4, 7)
    draw = PROPOSAL.draw(PATH, x, tick.noise(32), 4)
    estimate: Any = denoising_error(denoiser, x, draw)[1].x
    weight = 0.3 * 0.6 ** PATH.noise_scale(draw.t)
    moves = [denoiser.last.weight, denoiser.first.bias]
    along = torch.autograd.grad(estimate, moves, -weight[:, None] * (C - estimate.detach()) / 32, retain_graph=True)
    own = torch.autograd.grad(loss(x, tick)[0].mean(), moves)
    found = torch.autograd.grad(climbing.climb(x, tick)[0].mean(), moves)
    for a, b, c in zip(found, along, own, strict=True):
        torch.testing.assert_close(a, b + c, rtol=1e-9, atol=1e-12)
        assert b.abs().max() > 1e-3


def test_the_critic_learns_the_rewards_of_estimates_and_nothing_moves_the_denoiser_for_it() -> None:
    denoiser, critic = model().double(), Exactly()
    climbing = ClimbCritic(DenoisingLoss(denoiser, PROPOSAL), critic, twice)
    x, tick = LAW.sample(16, seeds=1), Tick(4, 7)
    with torch.no_grad():
        estimate: Any = denoising_error(denoiser, x, PROPOSAL.draw(PATH, x, tick.noise(16), 4))[1].x
    error, info = climbing.regress(x, tick)
    torch.testing.assert_close(error, (critic(estimate) - 2 * estimate[:, 0]) ** 2, rtol=1e-12, atol=1e-14)
    assert float(info["reward"]) == pytest.approx(float(2 * estimate[:, 0].mean()))
    assert torch.autograd.grad(error.sum(), denoiser.last.weight, allow_unused=True) == (None,)
    assert [part.name for part in climbing.parts(AdamW(1e-3), AdamW(1e-3))] == ["denoiser", "critic"]


def step(x: Any, cond: Any = None) -> Tensor:
    """No gradient anywhere."""
    return (x[:, 0] > 0).float()


def mean_reward(denoiser: Any) -> float:
    import kedge

    x = kedge.sample(denoiser, PATH.prior((1000, 2), seeds=3), kedge.grids.LogSNR(8, 0.1, 20.0), seeds=4)
    return float(step(x).mean())


def test_a_reward_without_a_gradient_is_climbed_and_the_denoiser_stays_one() -> None:
    """A fifth of the gap to the best, or more, while the error on data rises by less than a seventh. (A shift of the
    modes costs some error whoever makes it: of this size a twentieth at least.)
    """
    denoiser = Corrected(LAW, PATH, width=32, seed=0)
    loss = DenoisingLoss(denoiser, PROPOSAL)
    data = LAW.sample(4000, seeds=0, dtype=torch.float32)

    def error() -> float:
        with torch.no_grad():
            draw = PROPOSAL.draw(PATH, data, Tick(0, 9).noise(4000), 0)
            return float(torch.as_tensor(denoising_error(denoiser, data, draw)[0]).mean())

    before, began = mean_reward(denoiser), error()
    climbing = ClimbCritic(loss, nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1)), step)
    parts = climbing.parts(AdamW(1e-2), AdamW(1e-2), shadows=())
    Trainer(parts, Batches(data, 128), 120, progress=False).train()
    after = mean_reward(denoiser)
    assert after - before > 0.2 * (1 - before)
    assert error() < 1.15 * began


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match=r"the discount lies in \(0, 1\]"):
        ClimbCritic(DenoisingLoss(model()), Exactly(), step, discount=0.0)
