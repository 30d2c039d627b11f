"""The moments of a walk, their order, projection and thresholding."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import inspect
import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import kedge
from kedge.denoise import Estimator, Wrapped
from kedge.kernels import Gaussian
from kedge.tree import first_leaf
from kedge.walk import Hook, State, Step, Walk, walk
from kedge.walk.grids import LogSNR
from kedge.walk.hooks import Pin, Project, Record, Threshold
from kedge.walk.solvers import DDIM, DDPM, DPMSolverPP, Heun
from walk.oracles import PATHS, SOLVERS, Factorised, Spy, f64, mixture, start

VP = PATHS["VP"]
GRID = LogSNR(4)


class Diary(Hook):
    """Writes down when it is called, and with what."""

    def __init__(self, name: str, lines: list[tuple[Any, ...]]) -> None:
        self.name, self.lines = name, lines

    def wrap(self, denoiser: Estimator) -> Estimator:
        self.lines.append((self.name, "wrap"))

        def rule(inner: Estimator, x_t: Any, t: Any, cond: Any) -> Any:
            self.lines.append((self.name, "ask"))
            return inner.estimate(x_t, t, cond)

        return Wrapped(denoiser, rule)

    def begin(self, state: State) -> State:
        self.lines.append((self.name, "begin", state.step))
        return state

    def before(self, state: State, s: Any) -> State:
        self.lines.append((self.name, "before", state.step, state.t, s))
        return state

    def kernel(self, state: State, step: Step) -> tuple[State, Step]:
        assert step.drawn is None
        self.lines.append((self.name, "kernel", state.step, state.t))
        return state, step

    def after(self, state: State, step: Step) -> State:
        assert state.x is step.drawn
        self.lines.append((self.name, "after", state.step, state.t))
        return state


def test_moments_in_their_order() -> None:
    lines: list[tuple[Any, ...]] = []
    t = GRID.levels(VP).t
    walk = Walk(Spy(VP), DDPM(), GRID, (Diary("a", lines), Diary("b", lines)))
    walk.run(start(VP, 1.0, (2, 2)), seeds=0)
    expected: list[tuple[Any, ...]] = [("a", "wrap"), ("b", "wrap"), ("a", "begin", 0), ("b", "begin", 0)]
    for i in range(4):
        expected += [(name, "before", i, t[i], t[i + 1]) for name in "ab"]
        expected += [("b", "ask"), ("a", "ask")]  # the later hook wraps the earlier one's denoiser
        expected += [(name, "kernel", i, t[i]) for name in "ab"]
        expected += [(name, "after", i + 1, t[i + 1]) for name in "ab"]
    assert lines == expected
    lines.clear()
    walk.run(start(VP, 1.0, (2, 2)), seeds=0)
    assert lines == expected[2:]  # wrapped once, whatever is run


class Trap(Hook):
    """A hook of which the walk may ask one moment only."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("begin", "before", "kernel", "inside"):
            raise AssertionError(f"asked for {name}")
        return super().__getattribute__(name)

    def after(self, state: State, step: Step) -> State:
        state.x = state.x + 1  # type: ignore[operator]
        return state


def test_an_empty_moment_is_never_called() -> None:
    x = start(VP, 1.0, (2, 2))
    plain = kedge.sample(Spy(VP, lambda x, t: x * 0), x, GRID, DDIM())
    assert torch.equal(kedge.sample(Spy(VP, lambda x, t: x * 0), x, GRID, DDIM(), [Trap()]), plain + 1)


class Moves(Hook):
    def before(self, state: State, s: Any) -> State:
        state.x = state.x + 0.1  # type: ignore[operator]
        return state


class Shifts(Hook):
    def kernel(self, state: State, step: Step) -> tuple[State, Step]:
        if isinstance(step.kernel, Gaussian):
            step = replace(step, kernel=Gaussian(step.kernel.mean + 0.2, 0.5 * step.kernel.std))  # type: ignore[operator]
        return state, step


class Doubles(Hook):
    def after(self, state: State, step: Step) -> State:
        state.x = 2 * state.x  # type: ignore[operator]
        return state


class Begins(Hook):
    def begin(self, state: State) -> State:
        state.x = state.x * 0 + 1.5  # type: ignore[operator]
        state.notes["seen"] = state.x
        return state


class Scales(Hook):
    def wrap(self, denoiser: Estimator) -> Estimator:
        return Wrapped(denoiser, lambda inner, x, t, c: kedge.Estimate(1.5 * inner.estimate(x, t, c).x))  # type: ignore[operator]


def test_hooks_do_what_they_say() -> None:
    """All five by hand, in a plain loop."""
    levels = GRID.levels(VP).t
    D = Factorised(VP)
    x_0 = start(VP, 1.0, (3, 2))
    got = kedge.sample(D, x_0, GRID, DDPM(), [Begins(), Moves(), Shifts(), Doubles(), Scales()], seeds=4)
    x = torch.full_like(x_0, 1.5)
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        x = x + 0.1
        kernel: Any = VP.down(x, 1.5 * D(x, t), t, s)
        if s > 0:
            kernel = Gaussian(kernel.mean + 0.2, 0.5 * kernel.std)
        x = 2 * kernel.draw(kedge.Noise.of(4, 3), i)
    torch.testing.assert_close(got, x, rtol=0, atol=1e-13)


def test_a_hook_sees_the_points_inside_a_step() -> None:
    seen: list[Any] = []

    class Inside(Hook):
        def inside(self, state: State, x: Any, t: Any) -> Any:
            seen.append((state.step, state.t, t))
            return x + 1

    D = Spy(VP)
    x = start(VP, 1.0, (3, 2))
    kedge.sample(D, x, GRID, Heun(), [Inside()])
    t = GRID.levels(VP).t
    assert seen == [(i, t[i], t[i + 1]) for i in range(3)]
    assert len(D.calls) == 7
    bare = Spy(VP)
    kedge.sample(bare, x, GRID, Heun())
    torch.testing.assert_close(D.calls[1][0], bare.calls[1][0] + 1, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "hooks",
    [
        (Record(), Pin(torch.ones(2), torch.ones(2))),
        (Pin(torch.ones(2), torch.ones(2)), Project(lambda x: x)),
        (Threshold(), Moves()),
        (Record(), Threshold()),
    ],
)
def test_the_order_of_hooks_is_enforced(hooks: tuple[Hook, ...]) -> None:
    first, second = hooks
    line = f"^hook {type(second).__name__} must stand before {type(first).__name__}: what moves the state, then"
    with pytest.raises(ValueError, match=line):
        Walk(Spy(VP), DDPM(), GRID, hooks)
    Walk(Spy(VP), DDPM(), GRID, hooks[::-1])


def test_weighing_comes_last() -> None:
    class Weighs(Hook):
        place = "weigh"

    with pytest.raises(ValueError, match=r"^hook Record must stand before Weighs"):
        Walk(Spy(VP), DDPM(), GRID, (Weighs(), Record()))


def ball(x: Any) -> Tensor:
    """Onto the unit ball."""
    return x / x.norm(dim=1, keepdim=True).clamp(min=1)


@pytest.mark.parametrize("name", SOLVERS)
def test_projected_states_lie_on_the_constraint(name: str) -> None:
    record = Record()
    x = kedge.sample(Spy(VP), 5 * start(VP, 1.0, (8, 2)), GRID, SOLVERS[name], [Project(ball), record], seeds=1)
    assert bool((x.norm(dim=1) <= 1 + 1e-12).all())
    for i in range(1, 5):
        drawn, kept = record.steps[i - 1].drawn, record.x[i]
        assert torch.equal(kept, ball(drawn))  # type: ignore[arg-type]
    assert not torch.equal(record.x[1], record.steps[0].drawn)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SOLVERS)
def test_projected_estimates_lie_on_the_constraint(name: str) -> None:
    """The solver uses them: it is the walk of the projected denoiser."""
    D = Spy(VP, lambda x, t: 3 * x)
    x = start(VP, 1.0, (8, 2))
    projected = kedge.sample(D, x, GRID, SOLVERS[name], [Project(ball, on="clean")], seeds=1)
    by_hand = kedge.sample(Spy(VP, lambda x, t: ball(3 * x)), x, GRID, SOLVERS[name], seeds=1)
    assert torch.equal(projected, by_hand)
    assert bool((projected.norm(dim=1) <= 1 + 1e-12).all())


def test_projection_below_a_noise_scale_leaves_what_is_above() -> None:
    """And tells how far it has moved each sample."""
    x, record, levels = 5 * start(VP, 1.0, (8, 2)), Record(), GRID.levels(VP).rows()
    below = float(VP.noise_scale(levels[-2]))

    def small(x: Any) -> Tensor:
        return 0.1 * ball(10 * x)

    end = Walk(Spy(VP), DDPM(), GRID, [Project(small, below=below), record]).run(x, seeds=1)
    moved = [(step.drawn - kept).square().sum(1) for step, kept in zip(record.steps, record.x[1:], strict=True)]  # type: ignore[operator]
    assert not any(bool(m.any()) for m in moved[:-2])
    assert bool(moved[-2].any())
    torch.testing.assert_close(end.notes["projected"], sum(moved), rtol=0, atol=1e-12)
    D = Spy(VP, lambda x, t: 3 * x)
    late = kedge.sample(D, x, GRID, DDPM(), [Project(small, on="clean", below=below)], seeds=1)
    by_hand = Spy(VP, lambda x, t: small(3 * x) if float(VP.noise_scale(t)) <= below else 3 * x)
    assert torch.equal(late, kedge.sample(by_hand, x, GRID, DDPM(), seeds=1))


def test_projection_may_forget() -> None:
    """Without memory a multistep solver is of first order: the walk of order 1, projected."""
    D = mixture().denoiser(VP)
    x = start(VP, 1.0, (8, 2))
    ends = {
        (order, forget): kedge.sample(D, x, LogSNR(9), DPMSolverPP(order), [Project(ball, forget=forget)])
        for order in (1, 3)
        for forget in (False, True)
    }
    assert torch.equal(ends[3, True], ends[1, False])
    assert float((ends[3, False] - ends[1, False]).abs().max()) > 1e-3


def test_static_threshold() -> None:
    D = Spy(VP, lambda x, t: 3 * x)
    x = start(VP, 1.0, (8, 2))
    got = kedge.sample(D, x, GRID, DDIM(), [Threshold(0.8)])
    assert torch.equal(got, kedge.sample(Spy(VP, lambda x, t: (3 * x).clamp(-0.8, 0.8)), x, GRID, DDIM()))
    assert float(got.abs().max()) <= 0.8


def imagen(x_hat: Tensor, p: float, limit: float) -> Tensor:
    """Section 2.3 of Imagen, for data in [-limit, limit]: s is the percentile of |x_hat|; where it is above the limit,
    clip to [-s, s] and divide by s.
    """
    out = torch.empty_like(x_hat)
    for i, sample in enumerate(x_hat):
        ordered = sample.abs().flatten().sort().values
        place = p * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        s = max(float(ordered[low] + (place - low) * (ordered[high] - ordered[low])), limit)
        out[i] = sample.clamp(-s, s) / s * limit
    return out


@pytest.mark.parametrize("limit", [1.0, 0.7])
def test_dynamic_threshold_is_imagens(limit: float) -> None:
    x_hat = torch.randn(6, 3, 5, dtype=f64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [0.1, 0.3, 1.0, 2.0, 5.0, 9.0], dtype=f64
    ).reshape(6, 1, 1)
    D = Spy(VP, lambda x, t: x_hat)
    got = kedge.sample(D, start(VP, 1.0, (6, 3, 5)), LogSNR(1), DDIM(), [Threshold(limit, 0.9)])
    torch.testing.assert_close(got, imagen(x_hat, 0.9, limit), rtol=0, atol=1e-13)
    assert torch.equal(got[0], x_hat[0])  # within the limit: untouched


def test_threshold_keeps_the_extras() -> None:
    class Extra(Factorised):
        def estimate(self, x_t: Any, t: Any, cond: Any = None) -> kedge.Estimate:
            return kedge.Estimate(self(x_t, t), {"value": 3})

        def prepare(self, cond: Any) -> Any:
            return cond

    record = Record()
    kedge.sample(Extra(VP), start(VP, 1.0, (2, 2)), GRID, DDIM(), [Threshold(0.1), record])
    assert [step.estimate.extra["value"] for step in record.steps if step.estimate] == [3, 3, 3, 3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_threshold_in_half_precision(dtype: torch.dtype) -> None:
    D = Spy(VP, lambda x, t: 3 * x)
    x = kedge.sample(D, start(VP, 1.0, (4, 6)).to(dtype), GRID, DDIM(), [Threshold(1.0, 0.9)])
    assert x.dtype == dtype
    assert float(x.abs().max()) <= 1


@pytest.mark.parametrize("make", [lambda: Threshold(0.0), lambda: Threshold(1.0, 1.5), lambda: Threshold(1.0, 0.0)])
def test_impossible_thresholds_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"expected limit > 0 and a quantile in \(0, 1\]$"):
        make()


def test_a_hook_may_not_change_the_level() -> None:
    """The coefficients are those of the grid: a changed level would sample another law without a word."""

    class Churn(Hook):
        def before(self, state: State, s: Any) -> State:
            state.t = 1.1 * state.t
            return state

    with pytest.raises(ValueError, match="may not change the level"):
        kedge.sample(Factorised(VP), start(VP, VP.t_max / 2, (2, 2)), LogSNR(4, scale_max=1.0), hooks=[Churn()])


def test_a_hook_that_draws_takes_a_slot_of_its_own() -> None:
    noise = kedge.Noise.of(0, 3)
    kernel = Gaussian(torch.zeros(3, 2, dtype=f64), 1.0)
    draws = [kernel.draw(noise, 4, slot) for slot in (0, 7, 8)]
    assert torch.equal(draws[0], kernel.draw(noise, 4))
    assert len({float(draw[0, 0]) for draw in draws}) == 3


def test_hooks_that_work_in_place_leave_the_callers_start() -> None:
    class InPlace(Hook):
        def before(self, state: State, s: Any) -> State:
            first_leaf(state.x).add_(1)
            return state

    x = start(VP, VP.t_max, (2, 2))
    kept = x.clone()
    kedge.sample(Factorised(VP), x, GRID, DDIM(), hooks=[InPlace()])
    assert torch.equal(x, kept)


def test_one_hook_is_given_in_a_list() -> None:
    with pytest.raises(TypeError, match=r"^hooks is a list: \[Record\(\.\.\.\)\]$"):
        inspect.unwrap(walk._check_order)(Record())  # past the annotation check
