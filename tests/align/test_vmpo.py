"""VMPO on walks whose every law is known, and each peer that is a corner of it, by its own paper's formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from align.gaussian_walk import DIM, ends, walk
from kedge import Denoiser, Walk, grids, solvers
from kedge.align import VMPO, OwnWalks, Recorded, recorded, replayed
from kedge.nets import MLP
from kedge.paths import Trig
from kedge.train import AdamW, Tick, Trainer

BETA = 0.4
SLOPE = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)
BATCH = 8
TICK = Tick(0, 0)


def linear(x: Any, cond: Any = None) -> Tensor:
    return x @ SLOPE


def first_entry(x: Any, cond: Any = None) -> Tensor:
    return x[:, 0]


class Potential(nn.Module):
    """A small learned flow."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.3, 0.1, -0.2], dtype=torch.float64))

    def forward(self, x: Tensor, t: float, cond: Any) -> Tensor:
        assert cond is None
        return x @ self.w * (1 + t)


def corner(**options: Any) -> VMPO:
    """A model that has moved away from its reference."""
    made = VMPO(walk(), BETA, **options)
    with torch.no_grad():
        made.denoiser.b.add_(
            0.1 * torch.randn(made.denoiser.b.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        )
    return made


def batch(made: VMPO, *, each: int = 1, plug: bool = False) -> Recorded:
    source = OwnWalks(made.walk, (DIM,), BATCH, linear, each=each, plug=plug, dtype=torch.float64)
    return source.next(Tick(3, 5))


def moves(made: VMPO) -> list[nn.Parameter]:
    return [p for p in made.parameters() if p.requires_grad]


def slopes(loss: Tensor, made: VMPO) -> list[Tensor]:
    found = torch.autograd.grad(loss, moves(made), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(moves(made), found, strict=True)]


def densities(made: VMPO, walks: Recorded) -> tuple[Tensor, Tensor]:
    """`[K, B]`: of the model and of the reference."""
    new = replayed(made.walk, walks.record, made.denoiser)
    return new, replayed(made.walk, walks.record, made.reference.module).detach()


# Each peer's loss, from its paper; samples are detached. What it is called, and how often it goes into the corner.


def reinforce(made: VMPO, walks: Recorded) -> Tensor:
    """KL-regularised REINFORCE with leave-one-out (Kool et al., 2019; Ahmadian et al., 2024): the cost of a walk is
    `log p - log p_ref - r / beta`, the baseline the mean cost of the others.
    """
    new, old = densities(made, walks)
    log_p = new.sum(0)
    cost = (log_p - old.sum(0) - walks.reward / BETA).detach()
    baseline = (cost.sum() - cost) / (len(cost) - 1)
    return ((cost - baseline) * log_p).mean()


def grpo(made: VMPO, walks: Recorded) -> Tensor:
    """Group-relative advantages without division by the standard deviation, on the policy, before clipping."""
    new, _ = densities(made, walks)
    group = walks.reward.reshape(-1, 4)
    advantage = (group - group.mean(1, keepdim=True)).flatten()
    return -(advantage * new.sum(0)).mean()


def ddpo(made: VMPO, walks: Recorded) -> Tensor:
    """Black et al., 2024, eq. DDPO-SF, with the mean reward taken off."""
    new, _ = densities(made, walks)
    return -((walks.reward - walks.reward.mean()) * new.sum(0)).mean()


def prdp(made: VMPO, walks: Recorded) -> Tensor:
    """Deng et al., 2024: the difference of two log-ratios is regressed on that of the rewards over beta; REBEL too."""
    new, old = densities(made, walks)
    ratio = (new - old).sum(0).reshape(-1, 2)
    reward = walks.reward.reshape(-1, 2)
    return ((ratio[:, 0] - ratio[:, 1] - (reward[:, 0] - reward[:, 1]) / BETA) ** 2).mean()


def trajectory_balance(made: VMPO, walks: Recorded) -> Tensor:
    """Relative trajectory balance (Venkatraman et al., 2024): `(log Z p_theta / (p_ref e^{r / beta}))^2`."""
    new, old = densities(made, walks)
    assert made.log_z is not None
    return ((made.log_z + new.sum(0) - old.sum(0) - walks.reward / BETA) ** 2).mean()


def flows(made: VMPO, walks: Recorded) -> Tensor:
    """`[K + 1, B]`, the reward at the end."""
    assert made.flow is not None
    states = [walks.record.states[i] for i in walks.record.random_steps]
    return torch.stack([*(made.flow(s.x, s.t, None) for s in states), walks.reward / BETA])


def detailed_balance(made: VMPO, walks: Recorded) -> Tensor:
    """`(log F(x_t) p_theta(x_s | x_t) / (F(x_s) p_ref(x_s | x_t)))^2` of each transition (Bengio et al., 2023)."""
    new, old = densities(made, walks)
    F = flows(made, walks)
    return ((F[:-1] + new - F[1:] - old) ** 2).mean()


def path_consistency(made: VMPO, walks: Recorded) -> Tensor:
    """Trust-PCL (Nachum et al., 2018): from each state on, `(V(x_t) - r / beta + sum log p_theta / p_ref)^2`."""
    new, old = densities(made, walks)
    V = flows(made, walks)
    return torch.stack([
        (V[k] - V[-1] + (new - old)[k:].sum(0)) ** 2 for k in range(len(new))
    ]).mean()  # fmt: skip


def dpok(made: VMPO, walks: Recorded) -> Tensor:
    """Fan et al., 2023: the reward's policy gradient, and the divergence of each step in closed form, weighed by .5."""
    model, still = (made.walk.replay(walks.record, d) for d in (made.denoiser, made.reference.module))
    means = [
        (model[i].mean - still[i].mean.detach()) ** 2 / (2 * model[i].std ** 2)  # pyright: ignore
        for i in walks.record.random_steps
    ]
    return 2 / BETA * ddpo(made, walks) + 0.5 * torch.stack(means).sum((0, 2)).mean()


CORNERS: dict[str, tuple[Callable[..., Tensor], float, int, dict[str, Any]]] = {
    "leave-one-out": (reinforce, 2.0, 1, {}),
    "group without KL": (grpo, 2 / BETA, 4, {"baseline": "group", "keep_kl": False}),
    "batch without KL": (ddpo, 2 / BETA, 1, {"baseline": "batch", "keep_kl": False}),
    "pair": (prdp, 0.25, 2, {"baseline": "pair"}),
    "log Z": (trajectory_balance, 1.0, 1, {"baseline": "log-z"}),
    "flow": (detailed_balance, 1.0, 1, {"baseline": "flow", "potential": "difference", "flow": Potential()}),
    "flow to the end": (path_consistency, 1.0, 1, {"baseline": "flow", "potential": "to-go", "flow": Potential()}),
    "penalty": (dpok, 1.0, 1, {"baseline": "batch", "keep_kl": False, "penalty": 0.5}),
}


@pytest.mark.parametrize("name", CORNERS)
def test_a_peer_is_a_corner(name: str) -> None:
    peer, times, each, options = CORNERS[name]
    made = corner(**options)
    walks = batch(made, each=each)
    found, expected = slopes(made(walks, TICK)[0], made), slopes(times * peer(made, walks), made)
    assert sum(float(g.abs().sum()) for g in expected) > 0.1
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_estimates_plugged_in_shape_the_weights_of_the_steps() -> None:
    """The released form, step by step: `kappa [r(x_hat_s) - r(x_hat_t)] + log p_ref - log p_theta`; the last estimate
    is the sample.
    """
    made = corner(potential="difference", baseline="batch")
    walks = batch(made, plug=True)
    new, old = densities(made, walks)
    record = walks.record
    promised = [linear(record.steps[i].estimate.x) for i in record.random_steps]  # type: ignore[union-attr]
    r = torch.stack([*promised, linear(record.x[-1])])
    log_w = (r[1:] - r[:-1]) / BETA + old - new
    expected = ((log_w - log_w.mean(1, keepdim=True).detach()) ** 2).mean()
    torch.testing.assert_close(made(walks, TICK)[0], expected, rtol=1e-12, atol=0)


def test_the_mean_over_entries_is_another_loss() -> None:
    summed, averaged = corner(), corner(average=True)
    walks = batch(summed)
    new, old = densities(summed, walks)
    log_w = walks.reward / BETA + ((old - new) / DIM).sum(0)
    others = (log_w.sum() - log_w) / (BATCH - 1)
    torch.testing.assert_close(averaged(walks, TICK)[0], ((log_w - others.detach()) ** 2).mean(), rtol=1e-12, atol=0)
    assert not torch.isclose(averaged(walks, TICK)[0], summed(walks, TICK)[0], rtol=0.1)


def settled(made: VMPO, walks: Recorded) -> float:
    """Minimises the loss on these walks; what is left of it."""
    optimiser = torch.optim.LBFGS(
        moves(made), max_iter=150, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss, _ = made(walks, TICK)
        loss.backward()
        return loss

    optimiser.step(closure)  # pyright: ignore[reportArgumentType]
    return float(made(walks, TICK)[0].detach())


def test_on_its_own_walks_it_ends_in_the_tilt() -> None:
    """With a linear reward the tilted walks keep their variances, so that shifts alone reach them, and the gradient's
    noise goes to zero on the way. Their law is that of the walk as it is, not of the data.
    """
    made = VMPO(walk(6), BETA)
    mean, variance = ends(made.walk)
    source = OwnWalks(made.walk, (DIM,), 16, linear, dtype=torch.float64)
    part = made.part(AdamW(0.05, weight_decay=0.0, decay="cosine"), clip=None, shadows=())
    Trainer([part], source, 150, progress=False).train()
    found, spread = ends(made.walk)
    torch.testing.assert_close(found, mean + variance * SLOPE / BETA, rtol=0, atol=2e-3)
    torch.testing.assert_close(spread, variance, rtol=1e-6, atol=0)
    assert float(made(source.next(TICK), TICK)[1]["spread"]) < 2e-3


@pytest.mark.parametrize("seed", [None, 4])
def test_whoever_draws_it_ends_in_the_tilt(seed: int | None) -> None:
    """From 32 walks of the reference, or of one that is far from both."""
    made = VMPO(walk(), BETA, baseline="batch")
    mean, variance = ends(made.walk)
    walks = OwnWalks(made.walk, (DIM,), 32, linear, by=walk(seed=seed), dtype=torch.float64).next(TICK)
    assert settled(made, walks) < 1e-6
    found, spread = ends(made.walk)
    torch.testing.assert_close(found, mean + variance * SLOPE / BETA, rtol=0, atol=1e-3)
    torch.testing.assert_close(spread, variance, rtol=1e-6, atol=0)


def test_a_walk_that_remembers_its_start_is_tilted_from_each_start() -> None:
    """With eta .5 a part of the start is kept. The mean moves by what varies from one start only, and the log-weights
    keep the variance of `log Z` over starts; within groups of one start they become equal.
    """
    made = VMPO(walk(eta=0.5), BETA, baseline="group")
    mean, whole = ends(made.walk)
    _, inner = ends(made.walk, start=0.0)
    assert bool((inner < 0.5 * whole).all())
    source = OwnWalks(made.walk, (DIM,), 32, linear, each=4, shared=0, dtype=torch.float64)
    assert settled(made, source.next(TICK)) < 1e-9
    found, _ = ends(made.walk)
    torch.testing.assert_close(found, mean + inner * SLOPE / BETA, rtol=0, atol=1e-4)
    apart = OwnWalks(made.walk, (DIM,), 4000, linear, dtype=torch.float64).next(TICK)
    made.baseline = "batch"
    floor = float((SLOPE**2 * (whole - inner)).sum()) / BETA**2
    assert float(made(apart, TICK)[1]["spread"]) == pytest.approx(floor, rel=4 * (2 / 4000) ** 0.5)


def test_dropout_is_off() -> None:
    """At the reference's weights the log-ratios are 0, whatever the mode."""
    path = Trig(1.0)
    denoiser = Denoiser(MLP(DIM, width=16, depth=1, dropout=0.5), path, "trig")
    made = VMPO(Walk(denoiser, solvers.DDPM(), grids.LogSNR(4)), BETA).train()
    walks = OwnWalks(made.walk, (DIM,), BATCH, first_entry).next(TICK)
    assert float(made(walks, TICK)[1]["kl"]) == pytest.approx(0, abs=1e-5)


def test_figures() -> None:
    made = corner()
    walks = batch(made)
    _, info = made(walks, TICK)
    new, old = densities(made, walks)
    assert float(info["reward"]) == pytest.approx(float(walks.reward.mean()))
    assert float(info["kl"]) == pytest.approx(float((new - old).sum(0).mean().detach()))
    share = (walks.reward / BETA + (old - new).sum(0)).detach().exp()
    assert float(info["ess"]) == pytest.approx(float(share.sum() ** 2 / (share**2).sum() / BATCH))


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match="deterministic and has no densities"):
        VMPO(walk(eta=0.0))
    with pytest.raises(ValueError, match="beta must be positive"):
        VMPO(walk(), 0.0)
    with pytest.raises(ValueError, match="wants a flow"):
        VMPO(walk(), baseline="flow", potential="difference")
    with pytest.raises(ValueError, match="a flow balances steps"):
        VMPO(walk(), baseline="flow", flow=Potential())
    one = corner(baseline="log-z")
    with pytest.raises(ValueError, match="one log Z does not serve"):
        one(batch(one, each=2), TICK)
    made = corner(potential="difference")
    with pytest.raises(ValueError, match=r"OwnWalks\(plug=True\)"):
        made(batch(made), TICK)
    with pytest.raises(ValueError, match="do not divide"):
        OwnWalks(walk(), (DIM,), 7, linear, each=2)
    assert recorded(made.walk, torch.zeros(2, DIM, dtype=torch.float64), linear, seeds=1).plugged is None
