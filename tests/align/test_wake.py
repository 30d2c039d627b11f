"""Samplers of posteriors that are known, and the loss that learns from them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from align.posteriors import Posterior
from kedge.align.anneal import HMC, KeepESS
from kedge.align.wake import InclusiveLoss, Samplers
from kedge.train import AdamW, Tick

f64 = torch.float64
TWO = Posterior()
X = torch.tensor([1.0, 2.0, 4.0], dtype=f64)


def samplers(data: Tensor = X, posterior: Posterior = TWO, **options: Any) -> Samplers:
    options = {"batch": len(data), "particles": 20, "every": 1} | options
    return Samplers(data, posterior.prior, posterior.log_likelihood, **options)


def test_a_batch_is_data_with_particles_whose_weights_sum_to_one() -> None:
    source = samplers(batch=2, every=3, most=2)
    sizes = []
    for step in range(8):
        batch = source.next(Tick(step, 0))
        assert batch["x"].shape == (2,)
        assert batch["z"].shape == (*batch["weight"].shape, 1)
        torch.testing.assert_close(batch["weight"].sum(1), torch.ones(2, dtype=f64))
        assert bool(((batch["z"][..., 0] ** 2 - batch["x"][:, None]).abs() < 3).all()), "of its own data point"
        sizes.append(batch["z"].shape[1])
    assert sizes == [20, 20, 20, 40, 40, 40, 40, 40]
    assert len({tuple(source.next(Tick(step, 0))["x"].tolist()) for step in range(20)}) > 2


def test_samplers_count_by_their_evidence() -> None:
    """`Z_m w_mk / sum Z`, w being normalised within a sampler."""
    source = samplers()
    for step in range(3):
        batch = source.next(Tick(step, 0))
    rows = [int((x == X).nonzero()) for x in batch["x"]]
    Z = torch.stack([log_w.exp().mean(1) for log_w in source.log_w], 1)[rows]
    w = torch.stack([log_w.softmax(1) for log_w in source.log_w], 1)[rows]
    assert float(Z.std(1).min()) > 0
    expected = (Z / Z.sum(1, keepdim=True))[..., None] * w
    torch.testing.assert_close(batch["weight"], expected.flatten(1))
    torch.testing.assert_close(batch["z"], torch.cat([z[rows] for z in source.z], 1))


def test_the_newest_alone_may_be_heard() -> None:
    source = samplers(heard="newest")
    for step in range(3):
        batch = source.next(Tick(step, 0))
    rows = [int((x == X).nonzero()) for x in batch["x"]]
    torch.testing.assert_close(batch["z"], source.z[-1][rows])
    torch.testing.assert_close(batch["weight"], source.log_w[-1][rows].softmax(1))


def test_the_particles_that_are_chosen_stand_for_all() -> None:
    """Over many steps the mean of the chosen is the weighted mean of all."""
    source, few = samplers(most=2), samplers(most=2, choose=5)
    every = [source.next(Tick(step, 0)) for step in range(2)][-1]
    exact = (every["weight"] * every["z"][..., 0]).sum(1)
    at = {float(x): float(m) for x, m in zip(every["x"], exact, strict=True)}
    drawn = [few.next(Tick(step, 0)) for step in range(102)][2:]
    assert drawn[0]["z"].shape == (3, 5, 1)
    for x in X:
        means = torch.stack([batch["z"][batch["x"] == x].mean() for batch in drawn])
        assert abs(float(means.mean()) - at[float(x)]) < 4 * float(means.std()) / len(drawn) ** 0.5
        assert float(means.std()) > 0


def test_it_goes_on_from_its_state() -> None:
    source, other = samplers(), samplers()
    for step in range(2):
        source.next(Tick(step, 0))
    other.load(source.state())
    ours, theirs = source.next(Tick(2, 0)), other.next(Tick(2, 0))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"of other data: \[\(3, 20\)\] there, \(2, 20\) here"):
        samplers(X[:2]).load(source.state())


def test_the_evidence_is_the_exact_one() -> None:
    """Over 1000 samplers of 100 particles: the mean of Z within 4 standard errors, of less than 2 % each. (It adapts to
    its particles, which costs a bias of order 1 / K.)
    """
    data = torch.full((1000,), 4.0, dtype=f64)
    source = samplers(data, particles=100, schedule=KeepESS(0.5), move=HMC(leaps=1))
    source.next(Tick(0, 0))
    Z = source.log_w[0].exp().mean(1) / TWO.on_grid(X[2:])[1].exp()
    error = float(Z.std()) / 1000**0.5
    assert error < 0.02
    assert abs(float(Z.mean()) - 1) < 4 * error


class Line(nn.Module):
    """`q(z | x) = N(a x + b, s^2)`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.log_s = (nn.Parameter(torch.zeros((), dtype=f64)) for _ in range(3))

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.distributions.Normal(self.a * x + self.b, self.log_s.exp()).log_prob(z[:, 0])


def test_the_loss_is_the_weighted_log_density_of_each_data_points_own_particles() -> None:
    q = Line()
    with torch.no_grad():
        q.a.fill_(0.7)
    z = torch.randn(2, 5, 1, generator=torch.Generator().manual_seed(0), dtype=f64)
    weight = torch.rand(2, 5, generator=torch.Generator().manual_seed(1), dtype=f64)
    x = torch.tensor([1.0, -2.0], dtype=f64)
    loss, info = InclusiveLoss(q)({"x": x, "z": z, "weight": weight / weight.sum(1, keepdim=True)}, Tick(0, 0))
    by_hand = [0.0, 0.0]
    for i, k in itertools.product(range(2), range(5)):
        log_q = float(q.log_prob(z[i, k][None], x[i : i + 1]).detach())
        by_hand[i] -= float(weight[i, k] / weight[i].sum()) * log_q
    assert loss.tolist() == pytest.approx(by_hand)
    assert 1 < float(info["ess"]) <= 5
    part = InclusiveLoss(q).part(AdamW(1e-2), clip=None)
    assert len(part.parameters()) == 3


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="between 1 and the 3 data points, got 4"):
        samplers(batch=4)
    with pytest.raises(ValueError, match="at least 1: 0, 1, 100"):
        samplers(particles=0)
    with pytest.raises(TypeError, match=r"Linear has no log_prob\(z, x\)"):
        InclusiveLoss(nn.Linear(1, 1))
