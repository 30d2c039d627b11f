"""Gradients through a walk: all of them, in less memory, of the last steps, of the levels; and none by default."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kedge
from kedge.tree import tree_map
from kedge.walk import Hook, State, Step
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.hooks import Pin
from kedge.walk.solvers import DDIM, DDPM, Heun
from walk.oracles import PATHS, SOLVERS, Factorised, f64, geometric, normals, rewritten, start

VP = PATHS["VP"]
GRID = LogSNR(6)
SHAPE = 4, 2


class Net(nn.Module):
    """A small network that encodes its condition once and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.code, self.asked = nn.Linear(4, 2, dtype=f64), nn.Linear(1, 1, dtype=f64), 0

    def prepare(self, cond: Tensor) -> Tensor:
        return self.code(cond)

    def forward(self, x: Tensor, told: Tensor, cond: Tensor) -> Tensor:
        self.asked += 1
        return torch.tanh(self.layer(torch.cat([x, told[:, None], cond], 1)))


def denoiser() -> kedge.Denoiser:
    return kedge.Denoiser(Net(), VP, "clean")


COND = torch.linspace(-1, 1, 4, dtype=f64)[:, None]


def gradients(name: str, grad: Any, hooks: Any = ()) -> tuple[list[Tensor], int]:
    """Of the layer, the condition's code and the start; and how often the network was asked."""
    D, x = denoiser(), start(VP, 1.0, SHAPE).requires_grad_()
    kedge.sample(D, x, GRID, SOLVERS[name], hooks, COND, seeds=3, grad=grad).square().sum().backward()
    net: Any = D.net
    found = [net.layer.weight.grad, net.code.weight.grad, x.grad]
    return [torch.zeros(()) if g is None else g for g in found], net.asked


@pytest.mark.parametrize("name", ["DDPM", "DDIM", "DDIM-.3", "2M", "3M", "SDE-2", "SDE-3"])
def test_through_the_whole_walk(name: str) -> None:
    D, x = denoiser(), start(VP, 1.0, SHAPE).requires_grad_()
    net: Any = D.net
    code = net.prepare(COND)
    t = list(GRID.levels(VP).t)
    end = rewritten(name, VP, lambda x, t: D.estimate(x, t, code).x, x, t, normals(3, SHAPE, 6))
    end.square().sum().backward()
    exact = [net.layer.weight.grad, net.code.weight.grad, x.grad]
    assert all(float(g.norm()) > 1e-6 for g in exact)
    found, _ = gradients(name, True)
    for got, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_checkpoints_give_the_same(name: str, pinned: bool) -> None:
    """Recomputed on the way back: the same noise, the same pinned entries, the network asked again."""
    hooks = [Pin(torch.tensor([True, False]), torch.ones(2))] if pinned else []
    (whole, once), (saved, twice) = gradients(name, True, hooks), gradients(name, "checkpoint", hooks)
    for got, wanted in zip(saved, whole, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)
    assert float(whole[0].norm()) > 1e-6
    assert twice == 2 * once


class Cut(Hook):
    """Detaches the state and the memory before step `at`: the last K steps by another way."""

    def __init__(self, at: int) -> None:
        self.at = at

    def before(self, state: State, s: Any) -> State:
        if state.step == self.at:
            state.x = tree_map(torch.detach, state.x)
            state.memory = {name: tree_map(torch.detach, value) for name, value in state.memory.items()}
        return state


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("name", SOLVERS)
def test_of_the_last_steps(name: str, k: int) -> None:
    """... including those of the condition's encoding, which these steps heard."""
    last, _ = gradients(name, k)
    cut, _ = gradients(name, True, [Cut(6 - k)])
    for got, wanted in zip(last, cut, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)
    assert float(last[1].norm()) > 1e-9
    assert float(last[2].norm()) == 0


def test_of_more_steps_than_there_are() -> None:
    for got, wanted in zip(gradients("2M", 99)[0], gradients("2M", True)[0], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("grad", [False, 0])
@pytest.mark.parametrize("name", SOLVERS)
def test_none_by_default(name: str, grad: Any) -> None:
    seen: list[bool] = []

    class Seen(Hook):
        def after(self, state: State, step: Step) -> State:
            seen.append(torch.is_grad_enabled())
            return state

    x = start(VP, 1.0, SHAPE).requires_grad_()
    end = kedge.sample(denoiser(), x, GRID, SOLVERS[name], [Seen()], COND, seeds=3, grad=grad)
    assert not end.requires_grad
    assert seen == [False] * 6


def test_asked_for_they_come_under_no_grad_too_and_leave_it_as_it_was() -> None:
    with torch.no_grad():
        end = kedge.sample(denoiser(), start(VP, 1.0, SHAPE), GRID, DDIM(), cond=COND, grad=True)
        assert end.requires_grad
        assert not torch.is_grad_enabled()
        assert not kedge.sample(denoiser(), start(VP, 1.0, SHAPE), GRID, DDIM(), cond=COND).requires_grad
    assert torch.is_grad_enabled()


def test_the_same_numbers_with_and_without() -> None:
    x = start(VP, 1.0, SHAPE)
    ends = [
        kedge.sample(denoiser(), x, GRID, DDPM(), cond=COND, seeds=1, grad=g) for g in (False, True, "checkpoint", 2)
    ]
    for end in ends[1:]:
        assert torch.equal(end, ends[0])


def learned(path: str) -> Tensor:
    return torch.tensor([*geometric(PATHS[path], 8.0, 0.05, 4), 0.0], dtype=f64)


def walked(path: str, name: str, t: Tensor) -> Tensor:
    p = PATHS[path]
    x = start(p, float(learned(path)[0]), (3, 4))
    return kedge.sample(Factorised(p), x, Levels(t), SOLVERS[name], seeds=1, grad=True).square().sum()


@pytest.mark.parametrize("per_entry", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("path", PATHS)
def test_learned_levels(path: str, name: str, per_entry: bool) -> None:
    """Against central differences; a clean level is where it is, and takes none."""
    t = learned(path)[:, None].repeat(1, 4) if per_entry else learned(path)
    if per_entry:
        t[2, 1] = t[3, 1]  # one entry rests
        t[3:, 2] = 0  # and one arrives before the others
    t.requires_grad_()
    (grad,) = torch.autograd.grad(walked(path, name, t), t)
    assert bool(grad.isfinite().all())
    assert bool((grad[t == 0] == 0).all())
    for i in [0, 1, 3] if not per_entry else [(1, 0), (3, 0), (1, 1), (2, 2)]:
        step = 1e-6 * float(t[i].detach())
        ends = []
        for sign in (1, -1):
            moved = t.detach().clone()
            moved[i] += sign * step
            ends.append(float(walked(path, name, moved)))
        exact = (ends[0] - ends[1]) / (2 * step)
        # central differences: rounding 1e-15 / 1e-6 of the value, curvature 1e-12 of it
        assert abs(float(grad[i]) - exact) < 1e-5 * (abs(exact) + float(grad.norm())), (i, float(grad[i]), exact)


def test_learned_float32_levels_walk_in_float64() -> None:
    t = learned("VP").float().requires_grad_()
    seen: list[Any] = []

    class Seen(Hook):
        def before(self, state: State, s: Any) -> State:
            seen.append(s.dtype)
            return state

    x = start(VP, 1.0, (2, 2))
    kedge.sample(Factorised(VP), x, Levels(t), Heun(), [Seen()], grad=True).sum().backward()
    assert set(seen) == {f64}
    assert t.grad is not None
    assert t.grad.dtype == torch.float32


def test_a_learned_solver_is_planned_anew_each_time() -> None:
    """A plan is remembered for plain values only: one that holds a tensor may have changed since."""

    @dataclass(frozen=True)
    class Damped(DDIM):
        theta: Tensor = field(default_factory=lambda: torch.tensor(0.9, dtype=f64, requires_grad=True))

        def plan(self, path: Any, levels: Any) -> Any:
            return [(a * self.theta, b, std) for a, b, std in super().plan(path, levels)]

    solver, x = Damped(), start(VP, VP.t_max, SHAPE)
    for _ in range(2):
        kedge.sample(Factorised(VP), x, GRID, solver, grad=True).sum().backward()
    assert solver.theta.grad is not None
    with torch.no_grad():
        before = kedge.sample(Factorised(VP), x, GRID, solver)
        solver.theta.mul_(0.5)
    assert not torch.equal(before, kedge.sample(Factorised(VP), x, GRID, solver))
