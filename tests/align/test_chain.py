"""Every method of walks, held to a chain all of whose walks can be written down: the walk itself, not a copy of it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kedge.align import VMPO, Kept, OwnWalks, PolicyGradient, Recorded
from kedge.exact.chain import Chain
from kedge.train import Tick
from kedge.walk.grids import Levels

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
chain: Any = importlib.import_module("measure.chain")
frontier: Any = importlib.import_module("measure.frontier")

SCENE: Any = chain.States()
CHAIN: Chain = chain.CHAIN
BETA = 0.5


def moved(m: Any, scene: Any = SCENE) -> Any:
    """The walk with such a table."""
    model = scene.model(0)
    with torch.no_grad():
        model.m += m
    return scene.walk(model)


def some(seed: int = 0) -> Tensor:
    return torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(walk: Any, count: int, **options: Any) -> Recorded:
    return OwnWalks(walk, SCENE.shape, count, SCENE.reward, **options, **SCENE.drawing).next(Tick(3, 5))


def visited(walks: Recorded) -> Tensor:
    """`[steps + 1, B]` states."""
    return torch.stack([x.argmax(-1) for x in walks.record.x if isinstance(x, Tensor)])


def place_of(states: Tensor) -> Tensor:
    """Which of the 64 walks each is."""
    return (states * torch.tensor([[16], [4], [1]])).sum(0)


def test_the_reference_samples_its_law_and_the_tilt_is_exact() -> None:
    """Word for word: 64 walks, each as likely as it is; and the tilt is within what the model can say."""
    before = chain.transitions(SCENE.walk(SCENE.model(0)))
    law, (star, log_z) = CHAIN.law(before), chain.tilt(before, BETA)
    torch.testing.assert_close(law.sum(), torch.ones((), dtype=torch.float64), rtol=1e-14, atol=0)
    torch.testing.assert_close(chain.ends_of(before), chain.SHARES, rtol=0, atol=1e-8)
    lifted = torch.tensor([
        float(p) * 2.718281828459045 ** (float(chain.WORTH[walk[-1]]) / BETA)
        for p, walk in zip(law, CHAIN.walks.T, strict=True)
    ], dtype=torch.float64)  # fmt: skip
    assert len(lifted) == 64
    torch.testing.assert_close(CHAIN.law(star), lifted / lifted.sum(), rtol=0, atol=1e-9)
    tilted = chain.SHARES * (chain.WORTH / BETA).exp()
    torch.testing.assert_close(chain.ends_of(star), tilted / tilted.sum(), rtol=0, atol=1e-8)
    assert float(log_z.std()) < 1e-8, "the start is forgotten"
    there = chain.transitions(moved(chain.WORTH / BETA))
    torch.testing.assert_close(CHAIN.law(there), CHAIN.law(star), rtol=0, atol=1e-9)


def test_each_step_is_bayes_rule() -> None:
    """`p(x_s | x_t) = sum_x q(x_s | x_t, x) D(x | x_t)`, all three from the joint law of a state that is drawn anew."""
    kept_t, kept_s, eye = 0.3, 0.8, torch.eye(4, dtype=torch.float64)
    D = some()[0].softmax(-1)
    first, then = (chain.noised(eye, kept) for kept in (kept_s, kept_t / kept_s))
    torch.testing.assert_close(first @ then, chain.noised(eye, kept_t), rtol=1e-12, atol=0)
    given = first[:, :, None] * then[None] / (first @ then)[:, None]  # x, x_s, x_t
    expected = torch.einsum("xst,tx->ts", given, D)
    found = chain.posterior(kept_t, kept_s)(eye, D).mean
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_what_is_written_down_is_what_is_walked() -> None:
    """The densities of recorded steps, how often each walk is taken, and both again from a saved batch."""
    walk, count = moved(some()), 20_000
    written, walks = chain.transitions(walk), batch(walk, count)
    states = visited(walks)
    torch.testing.assert_close(walks.drawn, CHAIN.log_prob(written, states), rtol=1e-10, atol=1e-12)
    assert CHAIN.walks[:, 37].tolist() == [2, 1, 1], "walks are counted up"
    law, found = CHAIN.law(written), torch.bincount(place_of(states), minlength=64) / count
    chi = float((count * (found - law) ** 2 / law).sum())
    assert abs(chi - 63) < 4 * (2 * 63) ** 0.5
    torch.testing.assert_close(walks.reward, chain.WORTH[states[-1]])

    kept = Kept(OwnWalks(walk, SCENE.shape, 8, SCENE.reward, **SCENE.drawing))
    served = kept.next(Tick(3, 5))
    again = Kept(OwnWalks(walk, SCENE.shape, 8, SCENE.reward, **SCENE.drawing))
    again.load(kept.state())
    assert torch.equal(again.next(Tick(4, 5)).drawn, served.drawn)


def test_what_is_measured_is_written_out() -> None:
    """Of another table: every figure from the 64 probabilities."""
    p, q = (chain.transitions(moved(m)) for m in (0.0, some()))
    law, own, found = CHAIN.law(p), CHAIN.law(q), SCENE.compared(q, p, BETA)
    r = chain.WORTH[CHAIN.walks[-1]]
    star = law * (r / BETA).exp()
    star = star / star.sum()
    w = star / own
    assert found["reward"] == pytest.approx(float((own * r).sum()))
    assert found["bias"] == pytest.approx(float((own * r).sum() - (star * r).sum()))
    assert found["from_before"] == pytest.approx(float((own * (own / law).log()).sum()))
    assert found["from_tilt"] == pytest.approx(float(-(own * w.log()).sum()))
    assert found["ess"] == pytest.approx(float((own * w).sum() ** 2 / (own * w**2).sum()))
    assert found["spread"] == pytest.approx(float((own * (w.log() + found["from_tilt"]) ** 2).sum()))
    assert 0.01 < found["least"] < found["from_before"], "nothing has a reward for less than the tilt"
    tilted = SCENE.compared(chain.tilt(p, BETA)[0], p, BETA)
    assert tilted["least"] == pytest.approx(tilted["from_before"])
    assert tilted["from_tilt"] == pytest.approx(0, abs=1e-12)
    assert tilted["ess"] == pytest.approx(1)


CORNERS = [name for name in frontier.METHODS if name.startswith("vmpo") and name != "vmpo-plugged"]


@pytest.mark.parametrize("name", CORNERS)
def test_at_the_tilt_every_corner_stands_still(name: str) -> None:
    """Whoever drew the walks: here it is the model as it began. Its log-weights are equal there, and no walk of any
    batch pushes; before it is there, all do.
    """
    model, method = SCENE.model(0), frontier.METHODS[name]
    walk, flow = SCENE.walk(model), SCENE.flow(0)
    before = chain.transitions(walk)
    _, log_z = chain.tilt(before, BETA)
    made = method.made(walk, BETA, flow) if method.flows else method.made(walk, BETA)
    walks = batch(walk, 64, each=method.each)
    assert float(made(walks, Tick(0, 0))[0].detach()) > 0.1
    with torch.no_grad():
        model.m += chain.WORTH / BETA
        flow.f[0], flow.f[1] = log_z, (before.log_softmax(-1)[1] + chain.WORTH / BETA).logsumexp(-1)
        if made.log_z is not None:
            made.log_z.fill_(log_z.mean())
    loss, info = made(walks, Tick(0, 0))
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert float(info["spread"]) == pytest.approx(0, abs=1e-12)
    (slope,) = torch.autograd.grad(loss, model.m)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-6)


def ended(name: str) -> Any:
    """Where a method of the benchmark leads, at a beta of 1 and a rate that is fit for a test."""
    steps, scene = 60, chain.States(rate=0.1)
    [(walk, _)] = frontier.trained({"method": name, "steps": steps}, scene, 1.0, 0, (steps,))
    return scene.compared(scene.law(walk, 0), chain.transitions(scene.walk(scene.model(0))), 1.0)


def test_training_ends_in_the_tilt_and_without_a_penalty_goes_past_it() -> None:
    p = chain.transitions(SCENE.walk(SCENE.model(0)))
    begun, led, past = SCENE.compared(p, p, 1.0), ended("vmpo"), ended("ddpo")
    assert begun["from_tilt"] > 0.08
    assert begun["spread"] > 0.1
    assert led["from_tilt"] < 0.001
    assert led["spread"] < 0.002
    assert abs(led["bias"]) < 0.01
    assert led["ess"] > 0.995
    assert past["from_tilt"] > 0.5
    assert past["bias"] > 0.3
    assert past["ess"] < 0.2


def settled(made: Any, beta: float, steps: int = 60) -> Any:
    """Where the gradient that a method has on average leads from the tilt: the loss of each of the 64 walks, as likely
    as it is.
    """
    walk, m = made.walk, made.denoiser.m
    before, walks = chain.transitions(walk), batch(walk, 4000)
    place = place_of(visited(walks))
    every = walks.take(torch.stack([(place == one).nonzero()[0, 0] for one in range(64)]))
    with torch.no_grad():
        m += chain.WORTH / beta
    optimiser = torch.optim.Adam([m], lr=0.1)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.1 * min(1, 2 - 2 * step / steps)
        optimiser.zero_grad()
        (CHAIN.law(chain.transitions(walk)) * made(every, Tick(0, 0))[0]).sum().backward()
        optimiser.step()
    return SCENE.compared(chain.transitions(walk), before, beta)


def test_a_penalty_at_visited_states_leaves_the_tilt() -> None:
    """It does not hear how far a step leads the states after it astray (Fan et al., 2023, leave that term out), and
    comes to rest a fourteenth of a nat beside the tilt.
    """
    walk = SCENE.walk(SCENE.model(0))
    found = settled(PolicyGradient(walk, [], clip=None, penalty=0.25), 0.25)
    assert 0.065 < found["from_tilt"] < 0.08
    assert found["bias"] < -0.01


def test_where_a_start_is_remembered_the_spread_falls_to_that_of_log_z() -> None:
    """From a level at which much of a state is left, every start has a tilt of its own, and the log-weights of all
    walks keep the variance of `log Z`; of those from one start they are equal.
    """
    scene = chain.States(grid=Levels([0.3, 0.15, 0.0]))
    model = scene.model(0)
    walk = scene.walk(model)
    star, log_z = chain.tilt(chain.transitions(walk), BETA)
    made = VMPO(walk, BETA, baseline="batch")
    walks = batch(walk, 4000, each=8, shared=0)
    before = float(made(walks, Tick(0, 0))[1]["spread"])
    with torch.no_grad():
        model.m += chain.WORTH / BETA
    torch.testing.assert_close(CHAIN.law(chain.transitions(walk)), CHAIN.law(star), rtol=1e-9, atol=0)
    start = visited(walks)[0]
    floor = float(log_z[start].var(correction=0))
    assert float(made(walks, Tick(0, 0))[1]["spread"]) == pytest.approx(floor, rel=1e-9)
    assert before > 1.5 * floor > 0.1
    alone = VMPO(walk, BETA, baseline="group")
    alone.reference = made.reference
    assert float(alone(walks, Tick(0, 0))[1]["spread"]) == pytest.approx(0, abs=1e-12)
