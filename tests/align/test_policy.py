"""Policy gradients of walks whose expected reward is known, and what each option leaves of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from align.gaussian_walk import DIM, PATH, walk
from kedge import Walk, grids, solvers
from kedge.align import (
    Entries,
    Growing,
    OwnWalks,
    PolicyGradient,
    Recorded,
    Relative,
    replayed,
)
from kedge.align.policy import blurred
from kedge.train import Tick

SLOPE = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)
TICK = Tick(3, 5)
LEFT_OUT = [Relative(others=True)]


def linear(x: Any, cond: Any = None) -> Tensor:
    return x @ SLOPE


def by_entry(x: Any, cond: Any = None) -> Tensor:
    return x * SLOPE


def own(made: PolicyGradient, count: int = 8, reward: Any = linear, **options: Any) -> Recorded:
    return OwnWalks(made.walk, (DIM,), count, reward, dtype=torch.float64, **options).next(TICK)


def slope(made: PolicyGradient, walks: Recorded) -> Tensor:
    return torch.autograd.grad(made(walks, TICK)[0].mean(), made.denoiser.b)[0]


def exact_slope(made: PolicyGradient, c: Tensor = SLOPE) -> Tensor:
    """`d E[c . x_0] / d b`: the mean of a walk is linear in the shifts, so one walk of the means says it all."""
    rows = made.walk.grid.levels(PATH).rows()
    x = torch.zeros(1, DIM, dtype=torch.float64)
    for (t, _), (a, b, _) in zip(pairwise(rows), made.walk.solver.plan(PATH, rows), strict=True):
        x = a * x + b * made.denoiser(x, t)
    return torch.autograd.grad((x @ c).sum(), made.denoiser.b)[0]


@pytest.mark.parametrize("clip", [None, 0.2])
def test_it_is_the_gradient_of_the_expected_reward(clip: float | None) -> None:
    """Within 4 standard errors, in each entry at each level; the last step has no density, and learns nothing."""
    made = PolicyGradient(walk(seed=1), LEFT_OUT, clip=clip)
    found = []
    for step in range(60):
        walks = OwnWalks(made.walk, (DIM,), 64, linear, dtype=torch.float64).next(Tick(step, 5))
        found.append(-slope(made, walks))
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / 60**0.5
    expected = exact_slope(made)
    assert bool(((mean - expected).abs()[:-1] < 4 * error[:-1]).all())
    assert (expected[:-1].abs() > 10 * error[:-1]).any(), "the test sees it"
    assert mean[-1].abs().max() == 0


def test_clipping_changes_nothing_where_nothing_has_moved() -> None:
    for average in (False, True):
        plain, ratios = (PolicyGradient(walk(seed=1), LEFT_OUT, clip=c, average=average) for c in (None, 0.2))
        walks = own(plain)
        torch.testing.assert_close(slope(ratios, walks), slope(plain, walks), rtol=1e-12, atol=1e-14)
        info = ratios(walks, TICK)[1]
        assert float(info["clipped"]) == 0
        assert float(info["moved"]) == pytest.approx(0, abs=1e-12)


def test_a_walk_that_has_moved_far_enough_pushes_no_more() -> None:
    """By hand: `-min(r A, clip(r) A)` of each step, with r of the weights that drew it."""
    made = PolicyGradient(walk(seed=1), [Relative()], clip=0.1)
    walks = own(made)
    with torch.no_grad():
        made.denoiser.b.add_(0.3)
    new = replayed(made.walk, walks.record)
    r = (new - walks.drawn).exp()
    A = walks.reward - walks.reward.mean()
    expected = -torch.minimum(r * A, r.clamp(0.9, 1.1) * A).sum(0)
    loss, info = made(walks, TICK)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    gone = ((r > 1.1) & (A > 0)) | ((r < 0.9) & (A < 0))
    assert 0.1 < float(info["clipped"]) == pytest.approx(float(gone.double().mean()))
    assert float(info["moved"]) == pytest.approx(float((walks.drawn - new).sum(0).mean().detach()))


def test_only_the_last_steps_learn_where_that_is_asked() -> None:
    whole = PolicyGradient(walk(5, seed=1), LEFT_OUT)
    late = PolicyGradient(whole.walk, LEFT_OUT, last=3)
    walks = own(whole)
    assert slope(late, walks)[:2].abs().max() == 0
    torch.testing.assert_close(slope(late, walks)[2:], slope(whole, walks)[2:], rtol=1e-12, atol=1e-14)
    growing = PolicyGradient(whole.walk, LEFT_OUT, last=Growing(2, 5, 6))
    for step, first in ((0, 3), (2, 2), (4, 1), (6, 0), (60, 0)):
        loss = growing(walks, Tick(step, 5))[0].mean()
        (found,) = torch.autograd.grad(loss, growing.denoiser.b)
        assert found.abs().sum(1).nonzero()[0] == first
    with pytest.raises(ValueError, match="none of the last 1 of 5 steps is random"):
        PolicyGradient(whole.walk, last=1)(walks, TICK)


def test_a_step_counts_less_the_earlier_it_is() -> None:
    even, late = PolicyGradient(walk(5, seed=1), LEFT_OUT), PolicyGradient(walk(5, seed=1), LEFT_OUT, discount=0.5)
    walks = own(even)
    weight = torch.tensor([1 / 8, 1 / 4, 1 / 2, 1.0, 0.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(slope(late, walks), weight * slope(even, walks), rtol=1e-12, atol=1e-14)


def test_a_penalty_is_the_divergence_from_where_it_began() -> None:
    made = PolicyGradient(walk(seed=1), LEFT_OUT, penalty=0.7)
    plain = PolicyGradient(made.walk, LEFT_OUT)
    with torch.no_grad():
        made.denoiser.b.add_(0.2)
    walks = own(made)
    model, still = (made.walk.replay(walks.record, d) for d in (made.denoiser, made.reference.module))
    divergence = torch.stack([
        ((model[i].mean - still[i].mean) ** 2 / (2 * model[i].std ** 2)).sum(1)  # type: ignore[union-attr]
        for i in walks.record.random_steps
    ]).sum(0)  # fmt: skip
    loss, info = made(walks, TICK)
    torch.testing.assert_close(loss, plain(walks, TICK)[0] + 0.7 * divergence, rtol=1e-9, atol=1e-12)
    assert float(info["divergence"]) == pytest.approx(float(divergence.mean().detach()))
    (slope_of_it,) = torch.autograd.grad(info["divergence"] * 0 + loss.mean(), made.denoiser.b)
    assert slope_of_it.abs().sum() > 0


def test_credit_by_entries_has_the_same_mean_and_less_noise() -> None:
    """Each entry is denoised by itself here, and has a reward of its own: what is left out was noise alone."""
    whole, each = (PolicyGradient(walk(seed=1), LEFT_OUT, credit=c) for c in ("walk", Entries()))
    found: dict[str, list[Tensor]] = {"walk": [], "each": []}
    for step in range(60):
        walks = OwnWalks(whole.walk, (DIM,), 64, by_entry, dtype=torch.float64).next(Tick(step, 5))
        found["walk"].append(-slope(whole, walks))
        found["each"].append(-slope(each, walks))
    expected = exact_slope(whole)
    spread = {}
    for name, slopes in found.items():
        stacked = torch.stack(slopes)
        error = stacked.std(0) / 60**0.5
        assert bool(((stacked.mean(0) - expected).abs()[:-1] < 4 * error[:-1]).all()), name
        spread[name] = stacked[:, :-1].var(0)
    # a linear reward's share of the noise: r_i alone, against the sum of all
    assert float(spread["walk"].sum() / spread["each"].sum()) > 2
    assert spread["walk"][:, 2].mean() / spread["each"][:, 2].mean() > 4, "most for the entry that matters least"


def test_a_blur_lies_between_an_entry_and_the_walk() -> None:
    values = torch.arange(24.0).reshape(2, 3, 4)
    assert blurred(values, 0.0).equal(values)
    torch.testing.assert_close(
        blurred(values, 1e6), values.sum((1, 2), keepdim=True).expand(2, 3, 4), rtol=1e-5, atol=1e-3
    )
    one = torch.zeros(1, 3, 4)
    one[0, 1, 2] = 1.0
    spread = blurred(one, 0.8)[0]
    for i in range(3):
        for j in range(4):
            expected = torch.tensor(-((i - 1) ** 2 + (j - 2) ** 2) / (2 * 0.8**2)).exp()
            torch.testing.assert_close(spread[i, j], expected)
    made = PolicyGradient(walk(seed=1), LEFT_OUT, credit=Entries(1e6))
    walks = own(made, reward=by_entry)
    torch.testing.assert_close(
        slope(made, walks), slope(PolicyGradient(made.walk, LEFT_OUT), walks), rtol=1e-6, atol=1e-9
    )


def test_a_multistep_solver_learns_as_a_whole() -> None:
    multistep = Walk(walk(seed=1).denoiser, solvers.DPMSolverPP(order=2, sde=True), grids.LogSNR(4, 0.1, 1000.0))
    made = PolicyGradient(multistep, LEFT_OUT)
    assert slope(made, own(made)).abs().sum() > 0


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match="deterministic; use"):
        PolicyGradient(walk(eta=0.0))
    with pytest.raises(ValueError, match=r"discount lies in \(0, 1\]"):
        PolicyGradient(walk(), discount=1.5)
    with pytest.raises(ValueError, match="remembers earlier steps and learns of all"):
        PolicyGradient(replace(walk(), solver=solvers.DPMSolverPP(order=2, sde=True)), last=2)
    made = PolicyGradient(walk(), credit=Entries())
    with pytest.raises(ValueError, match="wants a reward of each entry"):
        made(own(made), TICK)


def test_what_failed_pushes_nothing() -> None:
    made = PolicyGradient(walk(seed=1), [Relative()])
    walks = own(made)
    counts = torch.ones(8, dtype=torch.bool)
    counts[3] = False
    assert float(made(replace(walks, counts=counts), TICK)[0][3].detach()) == 0
