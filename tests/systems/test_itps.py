"""Inference-time policy steering: its six strategies where the product of policy and objective is known, and on
trajectories through walls whose law is known.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import kedge
from kedge import Walk, grids, solvers
from kedge.exact import GaussianMixture, Quadratic
from kedge.paths import Trig
from kedge.steer import (
    Along,
    ComeTo,
    Objective,
    Steering,
    StochasticSampling,
    Way,
)
from steer.routes import POINTS, crosses, law, sketches

pytestmark = pytest.mark.system

f64 = torch.float64
PATH = Trig()
MEANS = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.2, -1.2]], dtype=f64)
POLICY = GaussianMixture([0.5, 0.3, 0.2], MEANS, [0.04, 0.09, 0.02])


class Bowl(Objective):
    """`xi(x) = k ||x - c||^2 / 2`, so that the product with a mixture is a mixture."""

    k = 6.0
    c = torch.tensor([0.2, 0.0], dtype=f64)

    def __call__(self, x: Any, t: Any = 0.0, cond: Any = None) -> Tensor:
        return self.k / 2 * (x - self.c).square().sum(1)


PRODUCT = POLICY.tilt(Quadratic(Bowl.k * torch.eye(2, dtype=f64), Bowl.k * Bowl.c))


def divergence(x: Tensor, neighbours: int = 4) -> float:
    """`KL(law of x || product)`: minus the entropy, by distances to neighbours (Kozachenko and Leonenko, 1987), and
    minus the mean log-density.
    """
    n, d = x.shape
    far = torch.cdist(x, x).kthvalue(neighbours + 1, dim=1).values
    digamma = torch.digamma(torch.tensor([n, neighbours], dtype=f64))
    entropy = float(digamma[0] - digamma[1] + math.log(math.pi) + d * far.log().mean())
    return -entropy - float(PRODUCT.log_prob(x).mean())


@cache
def sampled(way: Way, count: int = 1000) -> Tensor:
    walk = Walk(POLICY.denoiser(PATH), solvers.DDPM(), grids.LogSNR(30, 0.03, 10.0))
    return Steering(Bowl(), way).run(walk, PATH.prior((count, 2), 0, dtype=f64), seeds=1)


def exactly(times: int) -> Way:
    """The gradient at the noised sample, and nothing that changes the product."""
    return StochasticSampling(weight=1.0, times=times, by="step", through="state", together=0.0, most=None)


def test_stochastic_sampling_comes_to_the_product_and_guidance_does_not() -> None:
    """M = 1 is guided diffusion. Exact draws of this number are within .06 of 0."""
    assert divergence(PRODUCT.sample(1000, seeds=0)) < 0.06
    guided, stochastic = (divergence(sampled(exactly(times))) for times in (1, 4))
    assert guided > 0.4
    assert stochastic < 0.5 * guided


def test_the_more_often_the_nearer() -> None:
    far = [divergence(sampled(exactly(times))) for times in (1, 4, 16)]
    assert far[0] > far[1] > far[2]
    spread = float(PRODUCT.covariance.trace())
    assert sampled(exactly(1)).var(0).sum() < 0.75 * spread
    assert float(sampled(exactly(16)).var(0).sum()) == pytest.approx(spread, rel=0.15)


def test_through_the_clean_estimate_it_is_sharper_than_the_product() -> None:
    """What the published algorithm settles at, which jumps to the mean: nearer to the modes than samples are."""
    way = StochasticSampling(weight=1.0, times=4, by="clean", through="clean", together=0.0, most=None)
    likely = {name: PRODUCT.log_prob(x).mean() for name, x in (("jumped", sampled(way)), ("step", sampled(exactly(4))))}
    entropy = PRODUCT.log_prob(PRODUCT.sample(20_000, seeds=1)).mean()
    assert likely["jumped"] > entropy + 0.3
    assert (likely["step"] - entropy).abs() < 0.6 * (likely["jumped"] - entropy)


SET: dict[str, dict[str, Any]] = {
    "push": {"push": (0.0, 0.3)}, "biased": {"scale": 0.5}, "guided": {"weight": 30.0}, "stochastic": {"weight": 30.0},
}  # fmt: skip
WAYS = {name: way(**SET.get(name, {})) for name, way in kedge.steer.WAYS.items()}


@cache
def table() -> dict[str, dict[str, float]]:
    """Each way on sketches that cut the walls: xi, and the share of trajectories that cross one, of 16 for each sketch
    and of the one that is nearest to it.
    """
    walk = Walk(law().denoiser(PATH), solvers.DDIM(), grids.LogSNR(8, 0.03, 10.0))
    found = {}
    for name, way in WAYS.items():
        rows = []
        for i, line in enumerate(sketches()[1::7]):
            steering = Steering(Along.of(line), way)
            x = steering.run(walk, PATH.prior((16, POINTS, 2), i, dtype=f64), seeds=i)
            xi, met = steering.xi(x), crosses(x).double()
            best = steering.loss(xi[None], torch.zeros(1, 16, dtype=f64))[0].argmin() if name == "rank" else xi.argmin()
            rows.append(torch.stack([xi.mean(), met.mean(), xi[best], met[best]]))
        means = torch.stack(rows).mean(0).tolist()
        found[name] = dict(zip(("xi", "crossing", "best", "best_crossing"), means, strict=True))
    return found


def test_sketches_that_cannot_be_followed_to_the_letter() -> None:
    """Sampling goes to the sketch as far as the policy does; guidance goes there through the walls; ranking has to take
    what comes.
    """
    assert crosses(torch.stack(sketches())).double().mean() > 0.5
    assert table()["stochastic"]["best"] <= 0.7 * table()["rank"]["best"]
    assert table()["stochastic"]["xi"] <= 0.5 * table()["random"]["xi"]
    assert table()["guided"]["best"] <= 0.7 * table()["rank"]["best"]
    assert table()["guided"]["crossing"] >= 0.4
    chance = table()["random"]["crossing"]
    assert table()["stochastic"]["crossing"] <= min(table()["guided"]["crossing"] / 4, 1.5 * chance + 0.05)


def test_a_biased_start_is_between_chance_and_sampling() -> None:
    assert table()["stochastic"]["xi"] < table()["biased"]["xi"] < 0.7 * table()["random"]["xi"]
    assert table()["biased"]["crossing"] < 0.1


def test_a_correction_is_no_objective() -> None:
    """Nothing is asked of where the trajectory goes: as far from the sketch as chance."""
    assert table()["push"] == table()["random"]


def test_to_a_point() -> None:
    """The last point, anywhere among the three ends: the policy has no trajectory to (2, .5)."""
    walk = Walk(law().denoiser(PATH), solvers.DDIM(), grids.LogSNR(8, 0.03, 10.0))
    start, ends = PATH.prior((32, POINTS, 2), 0, dtype=f64), {}
    for name in ("random", "stochastic"):
        x = Steering(ComeTo((2.0, 1.0)), WAYS[name]).run(walk, start, seeds=0)
        ends[name] = x[:, -1, 1]
        assert crosses(x).double().mean() < 0.1
    assert ((ends["random"] - 1).abs() < 0.3).double().mean() < 0.6
    assert ((ends["stochastic"] - 1).abs() < 0.3).double().mean() > 0.9
