"""The six ways on an exact denoiser: each against what it says, done by hand, and all under one interface."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import kedge
from kedge import Noise, Walk, grids, solvers
from kedge.guide import Toward
from kedge.paths import Trig
from kedge.steer import (
    Along,
    BiasedInitialisation,
    ComeTo,
    GuidedDiffusion,
    Objective,
    OutputPerturbation,
    PostHocRanking,
    RandomSampling,
    StayOff,
    Steering,
    StochasticSampling,
    Way,
)
from kedge.steer.zones import Disc
from steer.routes import POINTS, law

f64 = torch.float64
PATH = Trig()
LINE = [[0, 0], [1, 0.5], [2, 0]]
SET: dict[str, dict[str, Any]] = {
    "push": {"push": (0.1, 0.2)}, "biased": {"scale": 0.5}, "guided": {"weight": 10},
    "stochastic": {"weight": 10, "times": 2},
}  # fmt: skip
WAYS = {name: way(**SET.get(name, {})) for name, way in kedge.steer.WAYS.items()}
TO = Along.of(LINE)


def walk(n: int = 5) -> Walk:
    return Walk(law().denoiser(PATH), solvers.DDIM(), grids.LogSNR(n, 0.05, 10.0))


def start(count: int = 6) -> Tensor:
    return PATH.prior((count, POINTS, 2), 0, dtype=f64)


def run(way: Way, to: Objective = TO, **more: Any) -> Tensor:
    return Steering(to, way).run(walk(), start(), seeds=7, **more)


@pytest.mark.parametrize("name", WAYS)
def test_one_interface(name: str) -> None:
    """The same seeds, the same samples, in any batch; another objective, other samples where it is heard at all."""
    whole = run(WAYS[name])
    assert whole.shape == (6, POINTS, 2)
    assert torch.equal(whole, run(WAYS[name]))
    keys = Noise.of(7, 6)
    some = Steering(TO, WAYS[name]).run(walk(), start()[2:4], seeds=keys.take(torch.tensor([2, 3])))
    torch.testing.assert_close(some, whole[2:4], rtol=1e-9, atol=1e-9)
    heard = name in ("biased", "guided", "stochastic")
    assert WAYS[name].denoises == heard
    assert torch.equal(run(WAYS[name], ComeTo((0.0, 3.0))), whole) != heard


def test_random_sampling_and_ranking_leave_the_walk_alone() -> None:
    plain: Any = walk().run(start(), seeds=7).x
    for way in (RandomSampling(), PostHocRanking(), OutputPerturbation(push=(1.0,))):
        assert torch.equal(run(way), plain)


def test_what_is_chosen() -> None:
    xi, worth = torch.tensor([[0.3, 0.1, 0.2]]), torch.tensor([[0.9, 0.0, 0.85]])

    def chosen(way: Way) -> int:
        return int(Steering(TO, way).loss(xi, worth).argmin(1))

    assert chosen(RandomSampling()) == 0
    assert chosen(PostHocRanking()) == 1
    assert chosen(StochasticSampling()) == 2
    assert chosen(StochasticSampling(weigh=20.0)) == 1


def test_a_push() -> None:
    here = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert OutputPerturbation(push=(0.5, -0.5)).here(here).tolist() == [[1.5, 1.5, 3.0, 4.0]]
    assert here.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert RandomSampling().here(here) is here


class Doubled:
    """A normaliser."""

    def __call__(self, x: Tensor) -> Tensor:
        return (x - 1) / 2

    def undo(self, x: Tensor) -> Tensor:
        return 2 * x + 1


def test_a_biased_start_is_the_noised_sketch() -> None:
    """At the noise scale that it says, in the denoiser's units; entries of which nothing is said are as known."""
    way, begun = BiasedInitialisation(scale=0.5), []

    class Spied:
        path, pinned = PATH, "noised"

        def __call__(self, x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
            begun.append((x_t.clone(), t))
            return torch.zeros_like(x_t)

    spied = Walk(Spied(), solvers.DDIM(), grids.LogSNR(5, 0.05, 10.0))
    known = torch.full((4000, POINTS, 3), 9.0, dtype=f64)
    first = PATH.prior((4000, POINTS, 3), 0, dtype=f64)
    Steering(TO, way).run(spied, first, seeds=0, scale=Doubled(), known=known)
    x, t = begun[0]
    assert PATH.noise_scale(t) == pytest.approx(0.5, rel=1e-9)
    example = Doubled()(TO.example(known))
    assert (example[..., 2] == 4).all()
    error = PATH.sigma(t) / math.sqrt(len(x))
    torch.testing.assert_close(x.mean(0), PATH.alpha(t) * example[0], rtol=0, atol=5 * error)
    torch.testing.assert_close(x.std(0), torch.full_like(x[0], PATH.sigma(t)), rtol=0.06, atol=0)
    assert all(later < t for _, later in begun[1:])
    begun.clear()
    Steering(StayOff(Disc(0, 0, 1)), way).run(spied, first, seeds=0, known=known)  # it has no example
    assert float(begun[0][0].mean()) == pytest.approx(9 * PATH.alpha(t), abs=0.02)


def test_guidance_and_stochastic_sampling_by_hand() -> None:
    guide = Toward(lambda x, t, cond: TO(Doubled().undo(x)), 10.0, together=1.5, most=1.0)
    guided = Walk(guide.on(law().denoiser(PATH)), solvers.DDIM(), grids.LogSNR(5, 0.05, 10.0))
    by_hand: Any = guided.run(start(), seeds=7).x
    torch.testing.assert_close(run(GuidedDiffusion(weight=10), scale=Doubled()), by_hand)
    again = Walk(guided.denoiser, guided.solver, grids.Again(guided.grid, 3, "step"))
    repeated: Any = again.run(start(), seeds=7).x
    way = StochasticSampling(weight=10, times=3, by="step")
    torch.testing.assert_close(run(way, scale=Doubled()), repeated)
    assert not torch.allclose(repeated, by_hand)
    once = StochasticSampling(weight=10, times=1)
    torch.testing.assert_close(run(once, scale=Doubled()), by_hand)


def test_xi_is_said_without_a_gradient() -> None:
    x = run(RandomSampling()).requires_grad_()
    xi = Steering(TO).xi(x)
    assert not xi.requires_grad
    torch.testing.assert_close(xi, TO(x).detach())
