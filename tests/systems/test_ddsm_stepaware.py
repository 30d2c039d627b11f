"""Step-aware widths: a network of several widths, and which of them each step of a walk needs."""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kedge
from kedge.denoise import Wrapped
from kedge.distill import Subject, WidthTrial, random_widths, search_widths
from kedge.errors import InputError
from kedge.fit import DenoisingLoss, Sandwich
from kedge.fit.proposals import LogNormal
from kedge.guide import ByWidth, Widths
from kedge.nets import MLP, Slimmable
from kedge.train import AdamW, Batches, Tick, Trainer
from kedge.walk.grids import Levels, LogSNR, Rho
from kedge.walk.solvers import DDIM, DPMSolverPP
from sliced import sliced
from systems.fitted import PATH, f64, ring

pytestmark = pytest.mark.system

SHARES = (0.25, 0.5, 1.0)
STEPS, LOW, HIGH = 6, 0.03, 10.0
GRID = Rho(STEPS, 7.0, LOW, HIGH)


def slim(shares: tuple[float, ...] = SHARES, width: int = 16) -> kedge.Denoiser:
    torch.manual_seed(0)
    net = Slimmable(lambda width: MLP(2, width, 2, embed=16, expansion=2), width, shares)
    return kedge.Denoiser(net, PATH, "edm", sigma_data=0.75)


# Training


def apart(denoiser: Any, share: float, batch: Tensor, tick: Tick) -> Tensor:
    """The denoising loss of a network of the width by itself."""
    own = kedge.Denoiser(denoiser.net.cut(share), PATH, "edm", sigma_data=0.75)
    return DenoisingLoss(own, LogNormal(-1.0, 1.5))(batch, tick)[0]


def test_the_sandwich_is_the_sum_of_three_losses() -> None:
    loss = Sandwich(DenoisingLoss(slim((0.25, 0.5, 0.75, 1.0)), LogNormal(-1.0, 1.5)))
    denoiser, batch = loss.loss.denoiser, ring().sample(8, seeds=0).float()
    between = set[float]()
    for step in range(8):
        tick = Tick(step, seed=1)
        least, other = loss.narrower(tick)
        assert least == 0.25
        assert loss.narrower(Tick(step, seed=1, turn=3)) == [least, other]
        between.add(other)
        total, info = loss(batch, tick)
        each = [apart(denoiser, share, batch, tick) for share in (1.0, least, other)]
        torch.testing.assert_close(total, sum(each))
        torch.testing.assert_close(info["error"], loss.loss(batch, tick)[1]["error"])
    assert between == {0.5, 0.75}
    assert Sandwich(DenoisingLoss(slim((0.5, 1.0)))).narrower(Tick(0, 0)) == [0.5]


def test_the_weighting_learns_from_the_whole_width(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Tensor] = []
    loss = Sandwich(DenoisingLoss(slim()))
    monkeypatch.setattr(type(loss.loss.weighting), "update", lambda self, log_snr, error: heard.append(error))
    _, info = loss(ring().sample(8, seeds=0).float(), Tick(0, 0))
    assert len(heard) == 1
    torch.testing.assert_close(heard[0].mean(), info["error"])


def test_all_widths_are_trained_and_averaged() -> None:
    loss = Sandwich(DenoisingLoss(slim()))
    before = {name: value.clone() for name, value in loss.named_parameters()}
    part = loss.part(AdamW(1e-3, warmup=0))
    Trainer([part], Batches(ring().sample(64, seeds=0).float(), 16), 3, progress=False).train()
    assert all(not torch.equal(value, before[name]) for name, value in loss.named_parameters() if "null" not in name)
    average: Any = part.weights()
    widths = Widths((1.0,), (0.25,))
    x = torch.ones(2, 2)
    now: Any = loss.loss.denoiser
    assert not torch.equal(widths.on(average.loss.denoiser)(x, 1.0), widths.on(now)(x, 1.0))


def test_what_has_one_width_is_refused() -> None:
    plain = kedge.Denoiser(MLP(2, 8, 1), PATH, "clean")
    for refuse in (lambda: Sandwich(DenoisingLoss(plain)), lambda: ByWidth.of(plain)):
        with pytest.raises(TypeError, match=r"a kedge\.nets\.Slimmable"):
            refuse()


# Walks


class Said(nn.Module):
    """Estimates that are the share of the width."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x, self.share)


def said(widths: Widths, path: Any = PATH) -> ByWidth:
    return ByWidth({share: kedge.Denoiser(Said(share), path, "clean") for share in SHARES}, widths)


def test_a_level_has_the_share_of_its_step() -> None:
    """On the grid that widths were found for, on a finer one, on another path, and inside a step."""
    widths = Widths((10.0, 1.0, 0.1), (0.25, 1.0, 0.5))
    expected = {20.0: 0.25, 10.0: 0.25, 1.01: 0.25, 1.0: 1.0, 0.3: 1.0, 0.1: 0.5, 0.05: 0.5}
    x = torch.zeros(len(expected), 2)
    for path in (PATH, kedge.paths.VariancePreserving(), kedge.paths.Rectified()):
        t = [path.time_at(scale) for scale in expected]
        denoiser = said(widths, path)
        assert [float(denoiser(x, level)[0, 0]) for level in t] == list(expected.values())
        assert denoiser(x, torch.tensor(t, dtype=f64))[:, 1].tolist() == list(expected.values())


@pytest.mark.parametrize(
    ("solver", "grid"),
    [
        (DDIM(), Rho(6, 7.0, 0.05, 8.0)),
        (DPMSolverPP(2), LogSNR(9, 0.03, 10.0)),
        (DPMSolverPP(3, multistep=False), LogSNR(4, 0.05, 10.0)),
    ],
)
def test_any_solver_on_any_grid_asks_the_width_of_the_level(solver: Any, grid: Any) -> None:
    widths, asked = Widths((10.0, 1.0, 0.1), (0.25, 1.0, 0.5)), list[tuple[float, float]]()

    def noted(inner: Any, x_t: Any, t: Any, cond: Any) -> Any:
        estimate = inner.estimate(x_t, t, cond)
        asked.append((float(PATH.noise_scale(t)), float(estimate.x[0, 0])))
        return estimate

    kedge.sample(Wrapped(said(widths), noted), torch.zeros(1, 2), grid, solver)
    n = len(grid.levels(PATH).t) - 1
    assert len(asked) == solver.evaluations(n)
    assert all(share == (0.25 if scale > 1.001 else 1.0 if scale > 0.1001 else 0.5) for scale, share in asked)
    assert len({share for _, share in asked}) == 3


def test_one_width_throughout_is_a_walk_of_the_network_cut_out() -> None:
    denoiser, x = slim().eval(), 10.0 * torch.ones(3, 2)
    scales = Subject(denoiser, x, LOW, HIGH).fine(STEPS)[:-1]
    for share in SHARES:
        own = denoiser.with_net(denoiser.net.cut(share))
        uniform = Widths(tuple(scales), (share,) * STEPS).on(denoiser)
        assert torch.equal(kedge.sample(uniform, x, GRID), kedge.sample(own, x, GRID))


def test_widths_are_kept(tmp_path: Path) -> None:
    one = random_widths([9.7, 1 / 3, 0.1], SHARES, 1, seed=3)[0]
    one.save(tmp_path / "widths.json")
    assert Widths.load(tmp_path / "widths.json") == one
    (tmp_path / "widths.json").write_text('{"scales": [1.0, 2.0], "shares": [0.5, 0.5]}')
    with pytest.raises(InputError, match="noise scales fall"):
        Widths.load(tmp_path / "widths.json")
    with pytest.raises(ValueError, match=r"no denoiser of share 0\.3"):
        said(Widths((1.0,), (0.3,)))


def test_a_trial_counts_what_a_walk_asks() -> None:
    """The multiply-adds of the layers, weighted by how often each width is asked."""
    subject = Subject(slim(), torch.zeros(4, 2), LOW, HIGH)
    layers = {w: 16 * 32 * 2 + 18 * w + 2 * 2 * w * 2 * w + 2 * w for w in (4, 8, 16)}
    once = WidthTrial(subject, DDIM(), GRID)
    assert once.multiply_adds == {w / 16: count for w, count in layers.items()}
    mixed = Widths(once.scales, (0.25, 0.25, 0.5, 1.0, 1.0, 1.0))
    mean = (2 * layers[4] + layers[8] + 3 * layers[16]) / 6
    assert once.cost(mixed) == pytest.approx(mean / layers[16], rel=1e-12)
    assert once.cost(once.uniform(1.0)) == 1.0
    assert once.error(once.uniform(1.0)) == 0.0
    assert once.score(2.0)(mixed) == once.error(mixed) + 2 * once.cost(mixed)
    twice = WidthTrial(subject, DPMSolverPP(2, multistep=False), Rho(2, 7.0, LOW, HIGH))
    cost = twice.cost(Widths(twice.scales, (0.25, 1.0)))  # two evaluations in the first step, one in the last
    assert cost == pytest.approx((2 * layers[4] + layers[16]) / 3 / layers[16], rel=1e-12)


# The search


def table(errors: Tensor, costs: Tensor, weight: float) -> dict[Widths, float]:
    """The score of every choice of widths, step by step."""
    every = product(SHARES, repeat=STEPS)
    scales = tuple(2.0**-i for i in range(STEPS))
    return {Widths(scales, one): float(e + weight * c) for one, e, c in zip(every, errors, costs, strict=True)}


def made_up(seed: int) -> dict[Widths, float]:
    """Each step of less than the whole width pushes a sample somewhere, and the next ones let a part of that remain."""
    generator = torch.Generator().manual_seed(seed)
    pushes = torch.randn(STEPS, 8, generator=generator) * torch.rand(STEPS, 1, generator=generator) ** 2
    every = torch.tensor(list(product(SHARES, repeat=STEPS)))
    off = torch.zeros(len(every), 8)
    for i in range(STEPS):
        off = 0.7 * off + (1 - every[:, i : i + 1]) * pushes[i]
    return table(off.square().mean(1).sqrt(), every.square().mean(1), weight=0.3)


def search(scores: dict[Widths, float], tries: int, seed: int) -> Any:
    return search_widths(scores.__getitem__, next(iter(scores)).scales, SHARES, tries, population=10, seed=seed)


def at_random(scores: dict[Widths, float], tries: int, seed: int) -> float:
    return min(scores[one] for one in random_widths(next(iter(scores)).scales, SHARES, tries, seed=seed))


def test_evolution_finds_the_best_of_all_729() -> None:
    """In 150 tries, of ten made-up tables: within 2 % each time, which random search is in no more than half."""
    found, drawn = list[float](), list[float]()
    for seed in range(10):
        scores = made_up(seed)
        assert len(scores) == 729
        best = min(scores.values())
        own = search(scores, 150, seed)
        assert len({widths for widths, _ in own.tried}) == len(own.tried) == 150
        assert scores[own.best] == min(score for _, score in own.tried)
        found.append(scores[own.best] / best)
        drawn.append(at_random(scores, 150, seed) / best)
    assert max(found) < 1.02
    assert sum(one < 1.02 for one in drawn) <= 5


def test_a_search_begins_with_each_width_throughout_and_repeats_itself() -> None:
    scores = made_up(0)
    own = search(scores, 40, seed=4)
    assert [set(widths.shares) for widths, _ in own.tried[:3]] == [{share} for share in SHARES]
    assert search(scores, 40, seed=4).tried == own.tried
    assert len(search(scores, 2000, seed=0).tried) <= 729


def test_a_child_is_one_parent_up_to_a_step_and_the_other_from_there_on() -> None:
    """Where no step changes by itself, children of one width throughout begin with one and end with another."""
    scales, wanted = next(iter(made_up(0))).scales, (0.25, 0.25, 1.0, 1.0, 1.0, 1.0)

    def wrong(widths: Widths) -> float:
        return float(sum(a != b for a, b in zip(widths.shares, wanted, strict=True)))

    assert search_widths(wrong, scales, SHARES, 60, population=3, changed=0.0).best.shares == wanted


@cache
def trained() -> kedge.Denoiser:
    denoiser = slim(width=48)
    loss = Sandwich(DenoisingLoss(denoiser, LogNormal(-1.0, 1.5)))
    part = loss.part(AdamW(5e-3, warmup=20, decay="cosine"), shadows=())
    data = Batches(ring().sample(8192, seeds=0).float(), 128)
    Trainer([part], data, 500, progress=False).train()
    return denoiser.eval()


@cache
def trial(count: int, seed: int) -> WidthTrial:
    return WidthTrial(Subject(trained(), torch.zeros(count, 2), LOW, HIGH, seed=seed), DDIM(), GRID)


@cache
def enumerated() -> tuple[Tensor, Tensor]:
    """The error and the cost of all 729, step by step for all of them at once."""
    one, rows = trial(256, 3), [float(t) for t in GRID.levels(PATH).rows()]
    x = one.subject.start()[None]
    for i in range(STEPS):  # a later step varies faster, as in `product`
        ways = [
            kedge.sample(one.networks.narrow[share], x.flatten(0, 1), Levels(rows[i : i + 2]), DDIM()).reshape(x.shape)
            for share in SHARES
        ]
        x = torch.stack(ways, 1).flatten(0, 1)
    spent = [one.multiply_adds[share] / one.multiply_adds[1.0] for share in SHARES]
    cost = torch.tensor(list(product(spent, repeat=STEPS))).mean(1)
    return (x - one.ends(one.uniform(1.0))).square().mean((1, 2)).sqrt(), cost


def quality(widths: Widths) -> float:
    """The sliced distance of samples from data, both of them others than in the search."""
    return sliced(trial(8192, 9).ends(widths), ring().sample(8192, seeds=77))


@pytest.mark.slow
def test_the_table_is_what_walks_say() -> None:
    errors, costs = enumerated()
    every, one = list(product(SHARES, repeat=STEPS)), trial(256, 3)
    for index in (1, 77, 400, 700):
        widths = Widths(one.scales, every[index])
        assert one.error(widths) == pytest.approx(float(errors[index]), rel=1e-3)
        assert one.cost(widths) == pytest.approx(float(costs[index]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.05, 0.1, 0.2])
def test_evolution_on_a_trained_network(weight: float) -> None:
    """All 729 strategies of six steps: within 2 % of the best in 150 tries, nearer than random search in as many."""
    scores = table(*enumerated(), weight)
    best = min(scores.values())
    found = [scores[search(scores, 150, seed).best] / best for seed in range(8)]
    drawn = [at_random(scores, 150, seed) / best for seed in range(8)]
    assert max(found) < 1.02
    assert sum(found) < sum(drawn)


@pytest.mark.slow
def test_fewer_multiply_adds_at_the_same_quality() -> None:
    one = trial(256, 3)
    found = search_widths(one.score(0.1), one.scales, SHARES, 150, population=10).best
    assert one.cost(found) <= 0.6
    assert quality(found) <= 1.05 * quality(one.uniform(1.0))


def at_most(one: WidthTrial, cost: float) -> Widths:
    """The widths of the least error that cost no more."""

    def score(widths: Widths) -> float:
        return one.error(widths) if one.cost(widths) <= cost else math.inf

    return search_widths(score, one.scales, SHARES, 150, population=10).best


@pytest.mark.slow
def test_searched_widths_beat_one_width_of_the_same_cost() -> None:
    """On noise that the search has not seen: in the distance from the whole width's ends, and from other data."""
    one, other = trial(256, 3), trial(2048, 9)
    same, data = one.uniform(0.5), ring().sample(1024, seeds=55)
    near = WidthTrial(trial(1024, 3).subject, DDIM(), GRID, lambda x: sliced(x, data))
    most = one.cost(same)
    found, by_data = at_most(one, most), at_most(near, most)
    assert one.cost(found) <= most >= one.cost(by_data)
    assert other.error(found) < 0.95 * other.error(same)
    assert quality(by_data) < quality(same)
