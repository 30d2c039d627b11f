"""AWM: advantages weigh the loss that the model was trained on, at its own clean samples."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from align.mixture_walk import PATH, ends, ring, walk
from kedge import Walk, solvers
from kedge.align import Clamp, Matching, OwnWalks, Relative, Standard
from kedge.train import AdamW, Tick, Trainer

pytestmark = pytest.mark.system

RING = ring(4)
SOLVERS = {"ode": solvers.DDIM(), "multistep": solvers.DPMSolverPP(order=2), "sde": solvers.DDIM(eta=1.0)}


def reward(x: Any, cond: Any = None) -> Tensor:
    """One of the four modes."""
    return torch.exp(-2 * (x - RING.means[0].to(x)).pow(2).sum(1))


def awm(walk: Walk, trust: float = 2.0, penalty: float = 1e-3) -> Matching:
    """Six draws, one in each sixth of the levels, flow matching's error; held near where the weights were a moment ago,
    and a little near where they began.
    """
    return Matching(walk, [Relative(), Standard(), Clamp(5.0)], draws=6, trust=trust, penalty=penalty)


@cache
def trained(which: str, trust: float = 2.0) -> Tensor:
    """Ends after 32 batches of 48."""
    made = replace(walk(RING, 6, seed=0), solver=SOLVERS[which])
    method = awm(made, trust)
    Trainer(
        [method.part(AdamW(1e-2, warmup=0, weight_decay=0.0))], OwnWalks(made, (2,), 48, reward), 32, progress=False
    ).train()
    return ends(made, 600)


def test_one_step_is_advantages_times_the_matching_loss() -> None:
    """Written down from the paper: `mean A |v(x_t, t) - v|^2`, with the velocity of the path at the clean sample."""
    made = replace(walk(RING, 6), solver=SOLVERS["multistep"])
    method = awm(made, trust=0.0, penalty=0.0)
    batch = OwnWalks(made, (2,), 12, reward, each=4).next(Tick(0, 0))
    x, draw, _, _ = method._asked(batch)
    t = draw.t[:, None]
    v = PATH.d_alpha(t) * x + PATH.d_sigma(t) * draw.z
    x_t = PATH.alpha(t) * x + PATH.sigma(t) * draw.z
    x_hat = made.denoiser(x_t.float(), draw.t)
    v_hat = PATH.d_alpha(t) * x_hat + PATH.d_sigma(t) * (x_t - PATH.alpha(t) * x_hat) / PATH.sigma(t)
    group = batch.reward.reshape(3, 4)
    A = ((group - group.mean(1, keepdim=True)) / group.std(1, correction=0, keepdim=True)).clamp(-5, 5).flatten()
    loss = (A.repeat(6) * (v_hat - v).pow(2).mean(1)).mean()
    parameters = list(made.denoiser.parameters())
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    found = torch.autograd.grad(method(batch, Tick(0, 0))[0].mean(), parameters, allow_unused=True)
    seen = [(one, other) for one, other in zip(found, expected, strict=True) if other is not None]
    assert max(float(other.abs().max()) for _, other in seen) > 1e-2
    for one, other in seen:
        assert one is not None
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", list(SOLVERS))
def test_any_solver_will_do(which: str) -> None:
    """The same step, whoever samples: deterministic, with memory, or ancestral."""
    assert float(reward(ends(walk(RING, 6, seed=0), 600)).mean()) < 0.26
    found = float(reward(trained(which)).mean())
    assert found > 0.5


def test_it_is_the_moving_average_that_holds_it() -> None:
    """What did worse pushes away, and nothing ends its push: without trust the samples leave the ring
    altogether (from this beginning and most others)."""
    assert float(trained("ode").norm(dim=1).max()) < 2
    free = trained("ode", 0.0)
    assert float(free.norm(dim=1).median()) > 3
    assert float(reward(free).mean()) < 0.1
