"""Amortised posteriors from annealed samplers: exact where q can be, and whole where the wake phase loses a mode."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from align.posteriors import GRID, Posterior
from kedge.align.anneal import HMC, KeepESS, annealed
from kedge.align.wake import InclusiveLoss, Samplers
from kedge.train import AdamW, Tick, Trainer

pytestmark = pytest.mark.system

f64 = torch.float64


class Gaussians(nn.Module):
    """`q(z | x)`: one or more Gaussians whose means and spreads are lines in `sqrt x`, or in x."""

    def __init__(self, components: int, root: bool) -> None:
        super().__init__()
        self.root = root
        self.lines = nn.Parameter(torch.zeros(3, components, 2, dtype=f64))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = torch.stack([torch.ones_like(x), x.sqrt() if self.root else x], 1)
        logits, mean, log_std = torch.einsum("bf,pkf->pbk", features, self.lines)
        return (10 * logits).log_softmax(1), mean, log_std.exp()  # logits have further to go than means

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        log_w, mean, std = self.parts(x)
        return (log_w + torch.distributions.Normal(mean, std).log_prob(z)).logsumexp(1)

    def on_grid(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.stack([self.log_prob(GRID[:, None], x_i.expand(len(GRID))) for x_i in x])


class FromItself:
    """The wake phase: K draws of q itself with self-normalised weights `p(z, x) / q(z | x)`."""

    def __init__(self, q: Gaussians, data: Tensor, posterior: Posterior, particles: int) -> None:
        self.q, self.data, self.posterior, self.particles = q, data, posterior, particles

    @torch.no_grad()
    def next(self, tick: Tick) -> dict[str, Tensor]:
        x = self.data.repeat_interleave(self.particles)
        log_w, mean, std = self.q.parts(x)
        noise = tick.noise(len(x))
        k = (noise.uniform((len(x), 1), tick.step) > log_w.exp().cumsum(1)).sum(1).clamp(max=log_w.shape[1] - 1)
        rows = torch.arange(len(x))
        z = (mean[rows, k] + std[rows, k] * noise.normal((len(x),), tick.step, 1))[:, None]
        joint = self.posterior.prior.log_prob(z) + self.posterior.log_likelihood(z, x)
        weight = (joint - self.q.log_prob(z, x)).reshape(len(self.data), -1).softmax(1)
        return {"x": self.data, "z": z.reshape(*weight.shape, 1), "weight": weight}

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None:
        pass


def trained(q: Gaussians, source: Any, steps: int, lr: float) -> Gaussians:
    loss = InclusiveLoss(q)
    part = loss.part(AdamW(lr, warmup=1, decay="linear", weight_decay=0.0), shadows=(), clip=None)
    Trainer([part], source, steps, progress=False).train()
    return q


def test_a_conjugate_posterior_is_learned() -> None:
    """`z ~ N(.5, 1)`, `x ~ N(z, .5^2)`: the posterior is `N(.8 x + .1, .2)` for every x. Within .02 nats: 40 data
    points with 5 samplers of 50 know the line to about .01 in either parameter.
    """
    posterior = Posterior(0.5, 1.0, 0.5, squared=False)
    data = 0.5 + 1.25**0.5 * torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=f64)
    source = Samplers(data, posterior.prior, posterior.log_likelihood, particles=50, every=10, most=5, batch=40)
    q = trained(Gaussians(1, root=False), source, 70, 0.1)
    x = torch.linspace(-1, 2, 7, dtype=f64)
    assert float(posterior.divergence(q.on_grid(x), x).max()) < 0.02
    torch.testing.assert_close(q.lines[1, 0].detach(), torch.tensor([0.1, 0.8], dtype=f64), rtol=0, atol=0.04)


def lost() -> Gaussians:
    """A q that has all but lost one mode of two: it gives it a weight of `e^-12`."""
    q = Gaussians(2, root=True)
    with torch.no_grad():
        q.lines[0, 1, 0] = -1.2
        q.lines[1] = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=f64)
        q.lines[2, :, 0] = math.log(0.2)
    return q


def test_a_mode_that_q_has_lost_is_found_again() -> None:
    """From the same start: the wake phase, drawing from q, stays with the one mode; samplers bring the other back, with
    its weight to within .12: 5 samplers of 80 know it to about .07 at a data point, and the line through 12 of them to
    .04 at its ends.
    """
    posterior, data = Posterior(), torch.linspace(1.0, 6.0, 12, dtype=f64)
    source = Samplers(data, posterior.prior, posterior.log_likelihood, particles=80, every=10, most=5, batch=12)
    ours = trained(lost(), source, 90, 0.12).on_grid(data)
    q = lost()
    theirs = trained(q, FromItself(q, data, posterior, 100), 40, 0.12).on_grid(data)
    below = (GRID < 0) * (GRID[1] - GRID[0])
    exact = 1 - posterior.above(data)
    assert float(exact.min()) > 0.2
    assert float(((ours.exp() * below).sum(1) - exact).abs().max()) < 0.12
    assert float((theirs.exp() * below).sum(1).max()) < 0.01
    assert float(posterior.divergence(ours, data).mean()) < 0.05
    assert float(posterior.divergence(theirs, data).mean()) > 1.0


def test_evidence_makes_many_samplers_right_where_the_newest_stays_wrong() -> None:
    """P(z > 0) by samplers of 10 particles: weighted by evidence, the error falls as 1 / M, and no bias is seen over
    4096 samplers; the mean of unweighted samplers keeps its own.
    """
    posterior, M, R, x = Posterior(), 64, 64, torch.tensor([4.0], dtype=f64)
    exact = float(posterior.above(x))
    z = posterior.prior.sample(10 * M * R, seeds=0)

    def log_joint(z: Tensor) -> Tensor:
        return posterior.prior.log_prob(z) + posterior.log_likelihood(z, x.expand(len(z)))

    made = annealed(z, posterior.prior.log_prob, log_joint, KeepESS(0.5), HMC(leaps=2), groups=M * R, seeds=1)
    each = made.mean(lambda z: (z[:, 0] > 0).double()).reshape(R, M)
    Z = made.log_z.reshape(R, M)

    def weighted(m: int) -> Tensor:
        return (Z.reshape(-1, m).softmax(1) * each.reshape(-1, m)).sum(1)

    naive = float(each.mean()) - exact
    assert abs(naive) > 4 * float(each.std()) / (M * R) ** 0.5
    assert abs(float(weighted(M).mean()) - exact) < 3 * float(weighted(M).std()) / R**0.5
    assert abs(float(weighted(M).mean()) - exact) < abs(naive) / 2
    squares = [float(((weighted(m) - exact) ** 2).mean()) for m in (4, 16, 64)]
    assert squares[0] > 2.5 * squares[1] > 2.5 * 2.5 * squares[2]
