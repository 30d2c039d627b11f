"""What a walk leaves behind: states, kernels, the true log-probability; and its steps again under other weights."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kedge
from kedge.kernels import Gaussian, NoDensityError
from kedge.tree import sum_event
from kedge.walk import Hook, State, Step, Walk
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.hooks import Pin, Project, Record, Threshold
from kedge.walk.solvers import DDPM
from walk.oracles import DETERMINISTIC, PATHS, RANDOM, SOLVERS, Factorised, ancestral, f64, normals, start

VP = PATHS["VP"]
GRID = LogSNR(6)


class Floor(Hook):
    """A least std, as fine-tuning by policy gradient has it."""

    def kernel(self, state: State, step: Step) -> tuple[State, Step]:
        if isinstance(step.kernel, Gaussian) and not isinstance(step.kernel.std, Tensor):
            step = replace(step, kernel=Gaussian(1.1 * step.kernel.mean, max(step.kernel.std, 0.2)))  # type: ignore[operator]
        return state, step


class Net(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2, dtype=f64)
        with torch.no_grad():
            self.layer.weight *= scale

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return torch.tanh(self.layer(torch.cat([x, told[:, None]], 1)))


def denoiser(scale: float = 1.0, path: Any = VP) -> kedge.Denoiser:
    return kedge.Denoiser(Net(scale), path, "clean")


@pytest.mark.parametrize("path", PATHS)
def test_means_variances_and_states(path: str) -> None:
    p, record = PATHS[path], Record()
    D = Factorised(p)
    x = x_0 = start(p, p.t_max, (4, 3))
    end = kedge.sample(D, x, GRID, DDPM(), [record], seeds=2)
    t, z = GRID.levels(p).t, normals(2, (4, 3), 6)
    assert torch.equal(record.x[0], x_0)
    assert torch.equal(record.x[-1], end)
    assert record.end == 0
    for i in range(5):
        a, b, std = ancestral(p, t[i], t[i + 1])
        mean = a * x + b * D.one(x, t[i])
        torch.testing.assert_close(record.means[i], mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(record.variances[i], torch.full_like(mean, std**2), rtol=1e-9, atol=0)
        x = mean + std * z[i]
        torch.testing.assert_close(record.x[i + 1], x, rtol=1e-12, atol=1e-12)
        assert record.states[i].t == t[i]
        assert record.states[i].step == i
    assert torch.equal(record.variances[-1], torch.zeros(4, 3, dtype=f64))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", RANDOM)
def test_log_probability_is_torchs(path: str, name: str) -> None:
    p, record = PATHS[path], Record()
    kedge.sample(Factorised(p), start(p, p.t_max, (4, 3, 2)), GRID, RANDOM[name], [record], seeds=2)
    assert record.random_steps == [0, 1, 2, 3, 4]  # the last, to clean, has no density
    for i in range(5):
        kernel: Any = record.steps[i].kernel
        exact = torch.distributions.Normal(kernel.mean, kernel.std).log_prob(record.x[i + 1]).sum((1, 2))  # type: ignore[arg-type]
        torch.testing.assert_close(record.log_prob()[i], exact, rtol=0, atol=1e-11)
        torch.testing.assert_close(record.log_prob(average=True)[i], exact / 6, rtol=0, atol=1e-11)


def test_closed_form_of_a_gaussian() -> None:
    """What a DDPM step draws is its own noise: log p = -z^2 / 2 - log std - log(2 pi) / 2, summed."""
    record = Record()
    kedge.sample(Factorised(VP), start(VP, 1.0, (4, 3)), GRID, DDPM(), [record], seeds=2)
    t, z = GRID.levels(VP).t, normals(2, (4, 3), 6)
    for i in range(5):
        std = ancestral(VP, t[i], t[i + 1])[2]
        exact = (-0.5 * z[i] ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)).sum(1)
        torch.testing.assert_close(record.log_prob()[i], exact, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", RANDOM)
def test_pinned_entries_count_for_nothing(name: str) -> None:
    record = Record()
    mask = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    pin = Pin(mask, torch.full((4, 3), 9.0))
    kedge.sample(Factorised(VP), start(VP, 1.0, (4, 3)), GRID, RANDOM[name], [pin, record], seeds=2)
    for i in range(5):
        kernel: Any = record.steps[i].kernel
        density = torch.distributions.Normal(kernel.mean, kernel.std).log_prob(record.steps[i].drawn)  # type: ignore[arg-type]
        torch.testing.assert_close(record.log_prob()[i], (density * ~mask).sum(1), rtol=0, atol=1e-11)


def test_a_projected_step_is_scored_by_its_draw() -> None:
    record = Record()
    x = start(VP, 1.0, (4, 3))
    kedge.sample(Factorised(VP), x, GRID, DDPM(), [Project(lambda x: 0.1 * x), record], seeds=2)  # type: ignore[operator]
    for i in range(5):
        assert torch.equal(record.x[i + 1], 0.1 * record.steps[i].drawn)  # type: ignore[operator]
        exact = sum_event(record.steps[i].kernel.log_prob(record.steps[i].drawn))  # type: ignore[arg-type]
        assert torch.equal(record.log_prob()[i], exact)


@pytest.mark.parametrize("name", RANDOM)
def test_levels_per_entry_have_the_same_density(name: str) -> None:
    records = Record(), Record()
    x = start(VP, 1.0, (4, 3))
    t = torch.tensor(GRID.levels(VP).t, dtype=f64)
    for levels, record in zip((t, t[:, None].expand(-1, 3)), records, strict=True):
        kedge.sample(Factorised(VP), x, Levels(levels), RANDOM[name], [record], seeds=2)
    assert records[1].random_steps == records[0].random_steps
    torch.testing.assert_close(records[0].log_prob(), records[1].log_prob(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_deterministic_walk_has_no_density(name: str) -> None:
    record = Record()
    walk = Walk(Factorised(VP), DETERMINISTIC[name], GRID, (record,))
    walk.run(start(VP, 1.0, (4, 3)))
    with pytest.raises(NoDensityError, match=r"^this walk's steps have no density: use a random solver, DDPM\(\)"):
        record.log_prob()
    with pytest.raises(NoDensityError, match=r"is deterministic: its steps have no density to replay$"):
        walk.replay(record)


def test_a_record_holds_the_latest_walk() -> None:
    record = Record()
    walk = Walk(Factorised(VP), DDPM(), GRID, (record,))
    x = start(VP, 1.0, (4, 3))
    walk.run(x, seeds=1)
    first = record.log_prob()
    walk.run(x, seeds=2)
    assert len(record.x) == 7
    assert len(record.steps) == len(record.states) == 6
    assert not torch.equal(first, record.log_prob())


def same(kernels: list[Any], record: Record) -> None:
    assert len(kernels) == len(record.steps)
    for kernel, step in zip(kernels, record.steps, strict=True):
        was: Any = step.kernel
        torch.testing.assert_close(kernel.mean, was.mean, rtol=0, atol=1e-14)
        torch.testing.assert_close(kernel.variance, was.variance, rtol=0, atol=0)


@pytest.mark.parametrize("grid", ["plain", "restart"])
@pytest.mark.parametrize("hooks", ["none", "floor", "pin", "shuffle", "threshold"])
@pytest.mark.parametrize("name", RANDOM)
def test_replay_under_the_same_weights(name: str, hooks: str, grid: str) -> None:
    class Shuffle(Hook):
        def before(self, state: State, s: Any) -> State:
            return state.take(torch.randperm(4, generator=torch.Generator().manual_seed(state.step)))

    record = Record()
    more = {
        "none": (),
        "floor": (Floor(),),
        "pin": (Pin(torch.tensor([True, False]), torch.ones(2)),),
        "shuffle": (Shuffle(),),
        "threshold": (Threshold(0.3, 0.5),),
    }[hooks]
    t = list(GRID.levels(VP).t)
    levels = Levels([*t, *t[3:]] if grid == "restart" else t, rise="noise")
    walk = Walk(denoiser(), RANDOM[name], levels, (*more, record))
    walk.run(start(VP, 1.0, (4, 2)), seeds=3)
    if hooks == "shuffle":
        assert not torch.equal(record.states[1].noise.key, record.states[0].noise.key)
    same(walk.replay(record), record)
    if RANDOM[name].density == "step":
        some = walk.replay(record, steps=[4, 1])
        for i, kernel in zip((4, 1), some, strict=True):
            torch.testing.assert_close(kernel.mean, record.means[i], rtol=0, atol=1e-14)  # type: ignore[attr-defined]
    else:
        with pytest.raises(ValueError, match=r"remembers earlier estimates: only the whole walk can be replayed"):
            walk.replay(record, steps=[1])


@pytest.mark.parametrize("name", RANDOM)
def test_replay_gives_the_policy_gradient(name: str) -> None:
    """Under other weights, the gradient of the log-density of the recorded draws: against a loop written out here."""
    record = Record()
    walk = Walk(denoiser(), RANDOM[name], GRID, (record,))
    walk.run(start(VP, 1.0, (4, 2)), seeds=3)
    other, plain = denoiser(1.3), denoiser(1.3)
    kernels = walk.replay(record, other)
    total = sum(sum_event(kernels[i].log_prob(record.steps[i].drawn)).sum() for i in record.random_steps)  # type: ignore[arg-type]
    total.backward()  # type: ignore[union-attr]

    by_hand, memory = torch.zeros((), dtype=f64), {}
    plan = RANDOM[name].plan(VP, GRID.levels(VP).rows())
    estimator: Any = plain
    for i in record.random_steps:
        state = State(record.states[i].x, record.states[i].t, None, record.states[i].noise, walk, i, memory)
        step = RANDOM[name].step(estimator, state, GRID.levels(VP).rows()[i + 1], plan[i])
        memory, kernel = step.memory, step.kernel
        by_hand = by_hand + torch.distributions.Normal(kernel.mean, kernel.std).log_prob(record.steps[i].drawn).sum()  # type: ignore
    by_hand.backward()
    grads = [net.net.layer.weight.grad for net in (other, plain)]  # type: ignore[union-attr]
    assert float(grads[0].norm()) > 1e-3
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        assert not walk.replay(record, other)[0].mean.requires_grad  # type: ignore[attr-defined]


class Encoded(torch.nn.Module):
    """A network that encodes what it is told, once a walk, with a weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight, dtype=f64))
        self.encodings = 0

    def prepare(self, cond: Tensor) -> Tensor:
        self.encodings += 1
        return self.weight * cond

    def forward(self, x: Tensor, told: Tensor, cond: Tensor) -> Tensor:
        return 0.5 * x + cond


def test_who_replays_encodes_the_condition() -> None:
    """With its own weights, once, and with gradients to them: the recorder's encoding is another one's."""
    nets = Encoded(1.0), Encoded(1.5)
    drew, other = (kedge.Denoiser(net, VP, "clean") for net in nets)
    record = Record()
    walk = Walk(drew, DDPM(), GRID, (record,))
    cond = torch.randn(4, 2, dtype=f64, generator=torch.Generator().manual_seed(0))
    walk.run(start(VP, 1.0, (4, 2)), cond, seeds=3)
    kernels = walk.replay(record, other)
    assert nets[1].encodings == 1
    whole = Record()
    Walk(other, DDPM(), GRID, (whole,)).run(start(VP, 1.0, (4, 2)), cond, seeds=3)
    first: Any = kernels[0]
    torch.testing.assert_close(first.mean, whole.means[0], rtol=0, atol=1e-14)
    record.log_prob(kernels).sum().backward()
    assert nets[1].weight.grad is not None
    assert float(nets[1].weight.grad.abs()) > 0.1
    assert nets[0].weight.grad is None
    same(walk.replay(record), record)


def test_recorded_tensors_hold_no_graph() -> None:
    record = Record()
    Walk(denoiser(), DDPM(), GRID, (record,)).run(start(VP, 1.0, (4, 2)), seeds=3)
    assert not any(x.requires_grad for x in record.x)  # type: ignore[union-attr]
    assert not record.log_prob().requires_grad


@pytest.mark.parametrize("name", SOLVERS)
def test_recording_changes_nothing(name: str) -> None:
    x = start(VP, 1.0, (4, 2))
    walks = [kedge.sample(denoiser(), x, GRID, SOLVERS[name], hooks, seeds=1) for hooks in ([], [Record()])]
    assert torch.equal(*walks)


@pytest.mark.parametrize("name", RANDOM)
def test_replay_beside_a_pin_has_ratio_one(name: str) -> None:
    """What a pin overwrites is not counted, in the record or in the replay."""
    record, mask = Record(), torch.tensor([True, False])
    walk = Walk(denoiser(), SOLVERS[name], GRID, [Pin(mask, torch.tensor([3.0, 0.0], dtype=f64)), record])
    walk.run(start(VP, VP.t_max, (5, 2)), seeds=1)
    again = record.log_prob(walk.replay(record))
    torch.testing.assert_close(again, record.log_prob(), rtol=0, atol=1e-12)
    other = record.log_prob(walk.replay(record, denoiser(0.5)))
    assert (other - again).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"^1 kernels for a record of 6 steps$"):
        record.log_prob(walk.replay(record)[:1])


def test_a_solver_may_leave_out_its_estimate() -> None:
    """Only a step that the path made is replayed as a rise."""

    class Silent(DDPM):
        def step(self, denoiser: Any, state: State, s: Any, coefficients: Any) -> Step:
            return replace(super().step(denoiser, state, s, coefficients), estimate=None)

    record = Record()
    walk = Walk(denoiser(), Silent(), GRID, [record])
    walk.run(start(VP, VP.t_max, (5, 2)), seeds=1)
    torch.testing.assert_close(record.log_prob(walk.replay(record)), record.log_prob(), rtol=0, atol=1e-12)


def test_an_empty_record_cannot_be_replayed() -> None:
    with pytest.raises(ValueError, match="nothing is recorded"):
        Walk(denoiser(), DDPM(), GRID).replay(Record())


def test_a_walk_that_failed_is_recorded_once() -> None:
    calls = 0

    class Breaks(nn.Module):
        def forward(self, x: Tensor, told: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return x * (math.nan if calls % 6 == 0 else 1.0)

    record = Record()
    with pytest.raises(ValueError, match="in step 6 of 6"):
        Walk(kedge.Denoiser(Breaks(), VP, "clean"), DDPM(), GRID, [record]).run(start(VP, VP.t_max, (2, 2)))
    assert len(record.steps) == 6
