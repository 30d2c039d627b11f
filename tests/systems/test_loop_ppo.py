"""LOOP: PPO of a sampler, the others of a prompt for its baseline."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from align.gaussian_walk import DIM, PATH, exact
from align.gaussian_walk import walk as gaussian_walk
from align.mixture_walk import Corrected, ends, mode_of, ring, walk
from kedge import Cond, Noise, Walk
from kedge.align import Kept, OwnWalks, PolicyGradient, Relative
from kedge.align.advantages import Piece
from kedge.train import AdamW, Tick, Trainer

pytestmark = pytest.mark.system

RING = ring(4)
SLOPE = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)


def loop(walk: Walk, clip: float | None = 0.2) -> PolicyGradient:
    """As published: leave-one-out, not scaled; the ratio of each step clipped."""
    return PolicyGradient(walk, [Relative(others=True)], clip=clip)


def prompts(count: int, noise: Noise) -> Cond:
    return Cond.of(level=noise.normal((count, 1), 0))


class Told(nn.Module):
    """A denoiser that hears a prompt and does not mind it."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.path = inner, inner.path

    def forward(self, x: Tensor, t: Any, cond: Cond | None = None) -> Tensor:
        return self.inner(x, t)


def told(made: Walk) -> Walk:
    return Walk(Told(made.denoiser), made.solver, made.grid)


def linear(x: Any, cond: Any) -> Tensor:
    """Some prompts are worth more, whatever is made of them."""
    return x @ SLOPE + 3 * cond.fields["level"][:, 0].to(x)


def slopes(made: Walk, pieces: list[Piece], each: int, batches: int = 24) -> Tensor:
    """The gradients of batches of 64 walks, with respect to the shift of the only random step."""
    method, found = PolicyGradient(made, pieces, clip=0.2), []
    for step in range(batches):
        source = OwnWalks(made, (DIM,), 64, linear, conditions=prompts, each=each, dtype=torch.float64)
        loss = method(source.next(Tick(step, 5)), Tick(step, 5))[0].mean()
        found.append(-torch.autograd.grad(loss, made.denoiser.inner.b)[0][0])
    return torch.stack(found)


def test_it_is_unbiased_and_its_baseline_takes_the_prompts_noise_out() -> None:
    """One random step, a bandit with Gaussian actions. Dividing by K rather than K - 1 would lose a quarter."""
    made = told(gaussian_walk(2, seed=1))
    ours = slopes(made, [Relative(others=True)], 4, 50)
    expected = bandit(made)
    error = ours.std(0) / 50**0.5
    assert bool(((ours.mean(0) - expected).abs() < 4 * error).all())
    assert float((0.25 * expected).norm()) > 6 * float(error.norm()), "a quarter less would be seen"
    alone = slopes(made, [Relative()], 1)  # the mean of the batch
    assert float(alone.var(0).sum()) > 5 * float(ours.var(0).sum())
    assert float(slopes(made, [], 1).var(0).sum()) > 5 * float(ours.var(0).sum())


def bandit(made: Walk) -> Tensor:
    """`d E[c . x_0] / d b_1`: what is estimated at the first level goes through the first step's coefficient, and then
    through the second estimate.
    """
    rows = made.grid.levels(PATH).rows()
    (_, b, _), (a_last, b_last, _) = made.solver.plan(PATH, rows)
    zero, one = (exact(torch.full((1,), v, dtype=torch.float64), float(rows[1])) for v in (0.0, 1.0))
    return b * (a_last + b_last * (one - zero)) * SLOPE


@cache
def share(which: str) -> float:
    """Of ends in the rewarded mode, after 11 batches of 48 walks, each heard twice."""
    made = told(walk(RING, 6))

    def reward(x: Any, cond: Any) -> Tensor:
        return (mode_of(x, RING) == 0).float() + 3 * cond.fields["level"][:, 0]

    each = 4 if which == "loop" else 1
    method = loop(made) if which == "loop" else PolicyGradient(made, [Relative()])
    source = Kept(OwnWalks(made, (2,), 48, reward, conditions=prompts, each=each), times=2)
    Trainer([method.part(AdamW(5e-3, warmup=0, weight_decay=0.0))], source, 22, progress=False).train()
    inner = made.denoiser.inner
    assert isinstance(inner, Corrected)
    return float((mode_of(ends(Walk(inner, made.solver, made.grid), 600), RING) == 0).float().mean())


def test_four_a_prompt_learn() -> None:
    assert share("loop") > 0.5


def test_one_a_prompt_learns_less_of_as_many_samples() -> None:
    assert share("one a prompt") < 0.4
