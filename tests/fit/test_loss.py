"""The loss as a trained module: what it reads, what it returns, what it carries through the trainer."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kedge.cond import Cond
from kedge.denoise import Denoiser
from kedge.fit import DenoisingLoss, Draw, Example, denoising_error, level_error, unpack
from kedge.fit.proposals import LogNormal, Uniform
from kedge.fit.weightings import EDM, LearnedHead, Polynomial
from kedge.fit.weightings import Uniform as Plain
from kedge.nets import MLP
from kedge.noise import Noise
from kedge.paths import GaussianPath, Trig, VariancePreserving
from kedge.train import AdamW, Batches, Part, Tick, Trainer, load_tree
from kedge.tree import Tree, first_leaf

TICK = Tick(step=3, seed=5)


class Net(nn.Module):
    """A linear map, which keeps what it was conditioned on."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5))
        self.conds: list[Any] = []

    def forward(self, x: Tensor, told: Tensor, cond: Any = None) -> Tensor:
        self.conds.append(cond)
        return self.a * x


def data(batch: int = 16) -> Tensor:
    return torch.randn(batch, 4, 2, generator=torch.Generator().manual_seed(0))


def denoiser(path: GaussianPath | None = None, **options: Any) -> Denoiser:
    return Denoiser(Net(), path or Trig(0.5), "velocity", **options)


class PerEntry:
    """Levels of their own for the entries, and weights."""

    def times(self, path: GaussianPath, u: Tensor) -> Tensor:
        return path.t_min + u * (path.t_max - path.t_min)

    def draw(self, path: GaussianPath, x: Tree, noise: Noise, step: int) -> Draw:
        batch, entries = first_leaf(x).shape[:2]
        t = self.times(path, noise.uniform((batch, entries), step, 3))
        weight = torch.arange(1.0, batch + 1)[:, None].expand(batch, entries)
        return Draw(t, path.noise(x, noise, step, 4), weight)


def test_it_is_the_weighted_error_at_the_ticks_own_draw() -> None:
    d, x, proposal, weighting = denoiser(), data(), LogNormal(-0.8, 1.6), EDM(0.5)
    loss, info = DenoisingLoss(d, proposal, weighting)(x, TICK)
    draw = proposal.draw(d.path, x, TICK.noise(16), TICK.step)
    L = level_error(denoising_error(d, x, draw)[0], draw.t)
    weighted = weighting(d.path.log_snr(draw.t)).float() * L
    assert loss.shape == (16,)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, weighted)
    assert set(info) == {"error", "weighted"}
    torch.testing.assert_close(info["error"], L.detach().mean())
    torch.testing.assert_close(info["weighted"], weighted.detach().mean())
    assert not info["error"].requires_grad
    assert not info["weighted"].requires_grad


def test_by_default_levels_are_log_normal_and_v_counts_alike() -> None:
    loss = DenoisingLoss(denoiser(Trig(0.3)))
    assert loss.proposal == LogNormal()
    assert loss.weighting == Plain("v", sigma_data=0.3)
    assert DenoisingLoss(denoiser(VariancePreserving())).weighting == Plain("v", sigma_data=1.0)


def test_it_follows_the_tick() -> None:
    loss = DenoisingLoss(denoiser())
    one, same, later, other = (loss(data(), tick)[0] for tick in (TICK, TICK, Tick(4, 5), Tick(3, 6)))
    assert torch.equal(one, same)
    assert not bool((one == later).any())
    assert not bool((one == other).any())


def test_a_penalty_is_added_and_not_weighed() -> None:
    head = LearnedHead(EDM(0.5), features=8)
    nn.init.ones_(head.linear.weight)
    d, x = denoiser(), data()
    loss, info = DenoisingLoss(d, weighting=head)(x, TICK)
    draw = LogNormal().draw(d.path, x, TICK.noise(16), TICK.step)
    log_snr = d.path.log_snr(draw.t)
    L = level_error(denoising_error(d, x, draw)[0], draw.t)
    torch.testing.assert_close(loss, head(log_snr).float() * L + head.penalty(log_snr).float())
    torch.testing.assert_close(info["weighted"], (head(log_snr).float() * L).mean().detach())


def test_levels_of_the_entries_are_averaged_and_a_draws_weight_counts() -> None:
    d, x = denoiser(), data()
    loss, _ = DenoisingLoss(d, PerEntry(), EDM(0.5))(x, TICK)
    draw = PerEntry().draw(d.path, x, TICK.noise(16), TICK.step)
    L = level_error(denoising_error(d, x, draw)[0], draw.t)
    assert L.shape == (16, 4)
    each = EDM(0.5)(d.path.log_snr(draw.t)).float() * L
    torch.testing.assert_close(loss, torch.arange(1.0, 17.0) * each.mean(1))


def test_a_batch_is_a_tensor_or_fields() -> None:
    x, known, goal = data(), torch.zeros(16, 4, 2, dtype=torch.bool), torch.ones(16, 3)
    assert unpack(x) == Example(x)
    whole = unpack({"x": x, "known": known, "goal": goal})
    assert whole.x is x
    assert whole.known is known
    assert whole.cond is not None
    assert whole.cond.fields == {"goal": goal}
    assert bool(whole.cond.keep["goal"].all())
    assert unpack({"x": x}).cond is None
    with pytest.raises(ValueError, match=r"""holds "x" .* got \['goal'\]"""):
        unpack({"goal": goal})


def test_conditions_reach_the_network_and_a_reader_may_be_ones_own() -> None:
    d = denoiser()
    DenoisingLoss(d)({"x": data(), "goal": torch.ones(16, 3)}, TICK)
    assert isinstance(d.net, Net)
    assert torch.equal(d.net.conds[-1].fields["goal"], torch.ones(16, 3))
    loss = DenoisingLoss(d, read=lambda pair: Example(pair[0], Cond.of(label=pair[1])))
    loss((data(), torch.zeros(16, 1)), TICK)
    assert set(d.net.conds[-1].fields) == {"label"}


def test_fields_are_dropped_at_their_shares_and_alike_at_the_same_tick() -> None:
    d, n = denoiser(), 4000
    loss = DenoisingLoss(d, drop={"goal": 0.25})
    batch = {"x": data(n), "goal": torch.ones(n, 3), "mode": torch.ones(n, 1)}
    loss(batch, TICK)
    loss(batch, TICK)
    loss(batch, Tick(4, 5))
    assert isinstance(d.net, Net)
    one, same, later = (cond.keep["goal"] for cond in d.net.conds[-3:])
    assert abs(float(one.float().mean()) - 0.75) < 4 * (0.25 * 0.75 / n) ** 0.5
    assert bool(d.net.conds[-1].keep["mode"].all())
    assert torch.equal(one, same)
    assert not torch.equal(one, later)


@pytest.mark.parametrize("own", [False, True])
def test_pinned_entries_are_left_out(own: bool) -> None:
    """By a mask for all, or by the batch's own, which goes first."""
    d, x = denoiser(pinned="clean"), data()
    known = torch.zeros(4, 2, dtype=torch.bool)
    known[0] = True
    other = torch.zeros(4, 2, dtype=torch.bool)
    other[:, 1] = True
    loss = DenoisingLoss(d, weighting=EDM(0.5), known=known)
    mask = other if own else known
    got, _ = loss({"x": x, "known": other.expand(16, 4, 2)} if own else x, TICK)
    draw = LogNormal().draw(d.path, x, TICK.noise(16), TICK.step)
    error, _ = denoising_error(d, x, draw, known=mask)
    L = error.sum((1, 2)) / (~mask).sum()
    torch.testing.assert_close(got, EDM(0.5)(d.path.log_snr(draw.t)).float() * L)


def test_only_training_moves_the_weighting() -> None:
    """And the batch is weighed before the weighting has seen it."""
    d, x = denoiser(), data(256)
    loss = DenoisingLoss(d, weighting=Polynomial())
    first, info = loss(x, TICK)
    torch.testing.assert_close(info["weighted"], info["error"])
    assert float(loss.weighting.batches) == 1  # pyright: ignore[reportAttributeAccessIssue]
    loss.eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    again, _ = loss(x, TICK)
    assert not torch.equal(first, again)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_the_weighting_is_told_the_law_and_the_unweighted_error() -> None:
    heard: list[tuple[str, Tensor, Tensor | None]] = []

    class Listening(EDM):
        def cover(self, log_snr: Tensor) -> None:
            heard.append(("cover", log_snr, None))

        def update(self, log_snr: Tensor, error: Tensor) -> None:
            heard.append(("update", log_snr, error))

    path = Trig(0.5)
    loss = DenoisingLoss(denoiser(path), LogNormal(-0.4, 1.0), Listening())
    _, info = loss(data(), TICK)
    (first, levels, _), (second, log_snr, error) = heard
    assert (first, second) == ("cover", "update")
    log_scale = -0.5 * levels
    assert abs(float(log_scale.mean()) + 0.4) < 1e-3
    assert abs(float(log_scale.std()) - 1.0) < 5e-3
    draw = LogNormal(-0.4, 1.0).draw(path, data(), TICK.noise(16), TICK.step)
    torch.testing.assert_close(log_snr, path.log_snr(draw.t))
    assert error is not None
    torch.testing.assert_close(error.mean(), info["error"])


def trainer(run: Path | None, steps: int, weighting: Any, initial: int = 0) -> Trainer:
    with torch.random.fork_rng():
        torch.manual_seed(initial)
        net = MLP(2, width=16, depth=1, embed=8, cond={"goal": 1})
    d = Denoiser(net, Trig(0.5), "trig")
    loss = DenoisingLoss(d, LogNormal(-0.8, 1.6), weighting, drop={"goal": 0.1})
    x = 0.5 * torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    return Trainer(
        [Part(loss, loss, AdamW(2e-2, warmup=5))],
        Batches({"x": x, "goal": x[:, :1].sign()}, 32),
        steps,
        run,
        log_every=10,
        checkpoint_every=20,
        progress=False,
    )


@pytest.mark.parametrize("weighting", [Polynomial, lambda: Polynomial(smooth="coefficients"), LearnedHead])
def test_a_run_in_two_pieces_is_bitwise_the_run_in_one(weighting: Any, tmp_path: Path) -> None:
    trainer(tmp_path / "whole", 60, weighting()).train()
    trainer(tmp_path / "pieces", 27, weighting()).train()
    trainer(tmp_path / "pieces", 60, weighting(), initial=1).train()
    one, other = (load_tree(tmp_path / name / "state" / "step-00000060") for name in ("whole", "pieces"))
    modules = [tree["parts"]["part0"]["module"] for tree in (one, other)]
    assert {name.split(".")[0] for name in modules[0]} == {"denoiser", "weighting"}
    assert modules[0].keys() == modules[1].keys()
    assert all(torch.equal(modules[0][name], modules[1][name]) for name in modules[0])
    averages = [tree["parts"]["part0"]["shadows"][0]["module"] for tree in (one, other)]
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])


def test_training_moves_network_and_weighting_and_lowers_the_error() -> None:
    """The error of the network's own output at the same draws before and after. Of normal data of the path's own scale
    x_t tells nothing about the velocity: no network is below 1 that does not hear the goal, the sign of one entry.
    """
    run = trainer(None, 150, Polynomial())
    loss, batch = run.parts[0].module, run.source.next(TICK)
    assert isinstance(loss, DenoisingLoss)
    assert isinstance(loss.weighting, Polynomial)

    def native() -> float:
        plain = DenoisingLoss(loss.denoiser, loss.proposal, EDM(0.5)).eval()
        return sum(float(plain(batch, Tick(step, 9))[0].detach().mean()) for step in range(20)) / 20

    before = native()
    run.log_every, weighted = 3, []
    for _ in range(150):
        run.advance()
        weighted.append(run.row.get("weighted", 0.0))
    assert before > 0.95
    assert native() < 0.9
    assert abs(sum(weighted[-30:]) / 30 - 1) < 0.1
    assert float(loss.weighting.batches) == 150
    average = run.shadow().module
    assert isinstance(average, DenoisingLoss)
    assert torch.equal(
        average.state_dict()["weighting.coefficients"], loss.weighting.coefficients
    )  # a buffer is copied


def test_a_learned_heads_layer_is_trained_with_the_network() -> None:
    run = trainer(None, 200, LearnedHead(EDM(0.5)))
    loss = run.parts[0].module
    assert isinstance(loss, DenoisingLoss)
    assert isinstance(loss.weighting, LearnedHead)
    start = {name: p.detach().clone() for name, p in loss.named_parameters()}
    run.log_every = 50
    weighted = []
    for _ in range(200):
        run.advance()
        if run.step % 50 == 0:
            weighted.append(run.row["weighted"])
    assert "weighting.linear.weight" in start
    for name, p in loss.named_parameters():
        if "null" not in name:
            assert not torch.equal(p, start[name]), name
    assert abs(weighted[-1] - 1) < 0.25


def test_uniform_times_and_bf16_train_too() -> None:
    run = trainer(None, 3, Polynomial())
    module = run.parts[0].module
    assert isinstance(module, DenoisingLoss)
    loss = DenoisingLoss(module.denoiser, Uniform(), Polynomial())
    half = Trainer([Part(loss, loss, AdamW())], run.source, 3, precision="bf16", progress=False)
    half.train()
    assert half.updaters[0].counts["skipped"] == 0
    assert bool(loss.weighting.coefficients.isfinite().all())  # pyright: ignore[reportAttributeAccessIssue]


def test_a_weighting_is_a_weighting() -> None:
    denoiser = Denoiser(nn.Identity(), Trig(), "trig")
    with pytest.raises(TypeError, match=r"^a weighting is an instance of a kedge.fit.Weighting, not "):
        inspect.unwrap(DenoisingLoss.__init__)(object.__new__(DenoisingLoss), denoiser, weighting=torch.exp)


def test_its_part_is_itself() -> None:
    loss = DenoisingLoss(Denoiser(nn.Linear(2, 2), Trig(), "trig"))
    part = loss.part(AdamW(lr=1e-3), clip=None)
    assert part.module is loss
    assert part.loss is loss
    assert part.clip is None


@pytest.mark.parametrize("weighting", [EDM(), LearnedHead(), Polynomial()])
def test_a_token_that_is_pinned_at_the_clean_level_does_no_harm(weighting: Any) -> None:
    """The levels of diffusion forcing: each token its own, the known ones clean."""

    class Forced:
        def times(self, path: GaussianPath, u: Tensor) -> Tensor:
            return LogNormal().times(path, u)

        def draw(self, path: GaussianPath, x: Tree, noise: Noise, step: int) -> Draw:
            t = torch.full((8, 3), 0.5, dtype=torch.float64)
            t[:, 0] = 0.0
            return Draw(t, path.noise(x, noise, step))

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x: Tensor, told: Tensor) -> Tensor:
            return self.linear(x)

    known = torch.zeros(3, 2, dtype=torch.bool)
    known[0] = True
    loss = DenoisingLoss(Denoiser(Tokens(), Trig(), "trig", pinned="clean"), Forced(), weighting, known=known)
    for step in range(2):
        value, _ = loss(torch.ones(8, 3, 2), Tick(step, 0))
        value.mean().backward()
    assert bool(value.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in loss.parameters() if p.grad is not None)
