"""Plans by exact denoisers, whose law is known: what is pinned, what is drawn, and whose noise it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kedge.data import Normaliser
from kedge.denoise import Estimate
from kedge.exact import GaussianMixture
from kedge.guide import Guide
from kedge.paths import Trig
from kedge.paths.gaussian import GaussianPath
from kedge.plan import Planner
from kedge.plan.planner import Nearby
from kedge.plan.proposer import candidate_seeds
from kedge.walk.grids import Rho
from kedge.walk.solvers import DPMSolverPP

H, S = 4, 2
f64 = torch.float64


def walk_law(width: int = S) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a random walk of H points with a drift, flattened; pairs of dimensions hang together."""
    t = torch.arange(1, H + 1, dtype=f64)
    along = torch.minimum(t[:, None], t[None]) * 0.3
    across = torch.kron(torch.eye(width // 2, dtype=f64), torch.tensor([[1.0, 0.4], [0.4, 0.6]], dtype=f64))
    mean = torch.outer(t, torch.tensor([0.2, -0.1], dtype=f64).repeat(width // 2)).flatten()
    return mean, torch.kron(along, across)


def conditional(known: list[int], values: Tensor, width: int = S) -> tuple[Tensor, Tensor, list[int]]:
    """Mean `[B, free]` and covariance of the free entries of the walk, given the known ones `[B, known]`."""
    m, C = walk_law(width)
    free = [i for i in range(H * width) if i not in known]
    gain = C[free][:, known] @ torch.linalg.inv(C[known][:, known])
    return m[free] + (values - m[known]) @ gain.T, C[free][:, free] - gain @ C[known][:, free], free


class Told:
    """The exact `E[x | x_t of the free entries, the known entries]`: what a planner is trained to become."""

    pinned = "clean"

    def __init__(self, path: GaussianPath, known: list[int], width: int = S) -> None:
        self.path, self.known, self.width = path, known, width

    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        flat = x_t.flatten(1).double()
        mean, C, free = conditional(self.known, flat[:, self.known], self.width)
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        gain = alpha * C @ torch.linalg.inv(alpha**2 * C + sigma**2 * torch.eye(len(free), dtype=f64))
        out = flat.clone()
        out[:, free] = mean + (flat[:, free] - alpha * mean) @ gain.T
        return out.reshape(x_t.shape).to(x_t)


def same(d: int = S) -> Normaliser:
    return Normaliser(torch.zeros(d), torch.ones(d))


def planner(denoiser: Any, evaluations: int = 40, **more: Any) -> Planner:
    settings: dict[str, Any] = {
        "denoiser": denoiser, "normaliser": same(more.get("dim", S)), "horizon": H, "stride": 5,
        "solver": DPMSolverPP(order=2), "grid": Rho(evaluations, 5.0, 0.01, 40.0), "dim": S,
    }  # fmt: skip
    return Planner(**settings | more)


def seeds_of(episodes: int, count: int, plans: int = 0) -> Tensor:
    return candidate_seeds(np.arange(episodes), plans, count)


FIRST = list(range(S))
ENDS = [*FIRST, *range((H - 1) * S, H * S)]


@pytest.mark.parametrize("known", [FIRST, ENDS], ids=["first", "goal"])
def test_plans_have_the_conditional_law(known: list[int]) -> None:
    """Means and covariances of 4,000 plans, within 4.5 standard errors and what 40 evaluations leave."""
    here = torch.tensor([[0.5, -0.3]])
    goal = torch.tensor([[1.5, 0.9]]) if known == ENDS else None
    n = 4000
    found = planner(Told(Trig(1.0), known), at_once=n).propose(here, seeds_of(1, n), goal)[0].double()
    values = here if goal is None else torch.cat([here, goal], 1)
    mean, C, free = conditional(known, values.double())
    x = found.flatten(1)[:, free]
    std = C.diag().sqrt()
    assert ((x.mean(0) - mean[0]).abs() < 4.5 * std / n**0.5 + 0.01).all()
    off = (torch.cov(x.T) - C).abs()
    assert (off < 4.5 * (std[:, None] * std) * (2 / n) ** 0.5 + 0.01).all()


def test_first_state_and_goal_are_exact() -> None:
    mean, C = walk_law()
    mixture = GaussianMixture([1.0], mean.reshape(1, H, S), C[None])
    here, goal = torch.randn(3, S, generator=torch.Generator().manual_seed(0)), torch.full((3, 1), 0.25)
    normaliser = Normaliser(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5]))
    made = planner(mixture.denoiser(Trig(1.0)), 5, normaliser=normaliser)
    found = made.propose(here, seeds_of(3, 7), goal)
    torch.testing.assert_close(found[:, :, 0], here[:, None].expand(-1, 7, -1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[:, :, -1, 0], goal.expand(-1, 7), rtol=1e-6, atol=1e-6)
    assert found[:, :, -1, 1].abs().max() < 1e-6, "what a goal leaves open is at rest"
    free = made.propose(here, seeds_of(3, 7))
    assert free[:, :, -1].std(1).min() > 0.01
    assert free[:, :, 1:-1].std(1).min() > 0.01


def test_normalised_plans_come_back_in_their_own_units() -> None:
    """The denoiser's law is of normalised plans: shifted and stretched, the plans are so too, and nothing else."""
    there = Normaliser(torch.tensor([10.0, -20.0]), torch.tensor([3.0, 0.5]))
    here = torch.tensor([[0.5, -0.3]])
    plain = planner(Told(Trig(1.0), FIRST), 8).propose(here, seeds_of(1, 5))
    moved = planner(Told(Trig(1.0), FIRST), 8, normaliser=there).propose(there.undo(here), seeds_of(1, 5))
    torch.testing.assert_close(there(moved), plain, rtol=1e-4, atol=1e-5)


def test_one_situation_or_256_and_any_number_at_once_are_the_same() -> None:
    here = torch.randn(256, S, generator=torch.Generator().manual_seed(1))
    seeds = seeds_of(256, 3)
    made = planner(Told(Trig(1.0), FIRST), 4)
    together = made.propose(here, seeds)
    for i in (0, 100, 255):
        alone = made.propose(here[i : i + 1], seeds[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)
    few = replace(made, at_once=37).propose(here[:20], seeds[:20])
    torch.testing.assert_close(few, together[:20], rtol=1e-5, atol=1e-5)


def test_seeds_of_candidates_differ() -> None:
    """Over episodes whose seeds follow each other, over plans and over candidates; and follow from those alone."""
    everyone = torch.stack([candidate_seeds(np.arange(1_000_000, 1_000_060), plans, 64) for plans in range(30)])
    assert len(everyone.unique()) == everyone.numel()
    again = candidate_seeds(np.array([1_000_007]), 3, 2)
    assert again[0].tolist() == everyone[3, 7, :2].tolist()


class Says(Guide):
    """The estimate is this everywhere, or this much more than it was."""

    def __init__(self, value: float, adds: bool = False) -> None:
        self.value, self.adds = value, adds

    def __call__(self, inner: Any, x_t: Any, t: Any, cond: Any) -> Estimate:
        x = inner.estimate(x_t, t, cond).x if self.adds else torch.zeros_like(x_t)
        return Estimate(x + self.value)


def test_guides_are_applied_in_order_and_pins_hold() -> None:
    here = torch.tensor([[0.5, -0.3]])
    made = planner(Told(Trig(1.0), FIRST), 4, guides=(Says(0.75), Says(0.5, adds=True)))
    found = made.propose(here, seeds_of(1, 3))
    torch.testing.assert_close(found[:, :, 1:], torch.full((1, 3, H - 1, S), 1.25), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0, :, 0], here.expand(3, -1), rtol=1e-6, atol=1e-6)


def test_a_guide_is_told_the_units() -> None:
    seen: list[Tensor] = []

    class Asks(Says):
        def measured(self, undo: Any) -> Guide:
            seen.append(undo(torch.zeros(1, S)))
            return self

    shift = torch.tensor([4.0, 5.0])
    made = planner(Told(Trig(1.0), FIRST), 2, normaliser=Normaliser(shift, torch.ones(2)), guides=(Asks(0.0),))
    made.propose(torch.zeros(1, S), seeds_of(1, 1))
    torch.testing.assert_close(seen[0][0], shift)


def test_frames_lead_from_noise_to_the_plan() -> None:
    frames: list[tuple[float, Tensor]] = []
    made = planner(Told(Trig(1.0), FIRST), 6, at_once=4)
    found = made.propose(torch.zeros(2, S), seeds_of(2, 5), frames=frames)
    scales = [scale for scale, _ in frames]
    assert len(frames) == 6
    assert scales == sorted(scales, reverse=True)
    assert scales[0] == pytest.approx(40.0, rel=1e-6)
    far, near = ((estimate - found).abs().mean() for estimate in (frames[0][1], frames[-1][1]))
    assert near < 0.05 * far


def test_some_candidates_are_looked_for_near_what_is_kept() -> None:
    """From a noise of .01 the walk has no room to leave; the other candidates know nothing of it."""
    kept = torch.randn(2, H, S, generator=torch.Generator().manual_seed(2))
    here = kept[:, 0]
    plain = planner(Told(Trig(1.0), FIRST), 5)
    made = replace(plain, nearby=Nearby(Rho(3, 3.0, 0.002, 0.01), share=0.5))
    found = made.propose(here, seeds_of(2, 6), kept=kept)
    assert (found[:, :3] - kept[:, None]).abs().max() < 0.1
    assert (found[:, 3:] - kept[:, None]).abs().mean() > 0.2
    torch.testing.assert_close(found[:, 3:], plain.propose(here, seeds_of(2, 6))[:, 3:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.propose(here, seeds_of(2, 6)), plain.propose(here, seeds_of(2, 6), kept=kept))
