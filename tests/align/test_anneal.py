"""Annealing between laws whose path is known in closed form."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import solve_ivp
from torch import Tensor

from align.gaussian_path import GaussianPath
from kedge.align.anneal import HMC, Annealed, Bridge, ConstantRate, Here, KeepESS, Linear, Pace, annealed
from kedge.exact import GaussianMixture
from kedge.noise import Noise
from kedge.particles import furthest, surviving

f64 = torch.float64
PATH = GaussianPath((1.5, -1.0), (0.25, 0.04), shift=0.7)
MODES = torch.tensor([[3.0, 3.0], [-3.0, 3.0], [3.0, -3.0], [-3.0, -3.0]], dtype=f64)
FOUR = GaussianMixture([0.1, 0.2, 0.3, 0.4], MODES, [0.25] * 4)
WIDE = GaussianMixture([1.0], torch.zeros(1, 2, dtype=f64), [9.0])


def walked(schedule: Pace, n: int = 400, groups: int = 1, seed: int = 0, path: GaussianPath = PATH) -> Annealed:
    x = path.first.sample(n * groups, seeds=seed)
    return annealed(x, path.first.log_prob, path.log_target, schedule, groups=groups, seeds=seed + 1)


def standing(x: Tensor, groups: int = 1, b: float = 0.0, alpha: float = 1.0, path: GaussianPath = PATH) -> Here:
    """A run that stands at b with these particles, equally weighted."""
    start, target = (f(x).reshape(groups, -1) for f in (path.first.log_prob, path.log_target))
    return Here(Bridge(alpha), torch.full((groups,), b, dtype=f64), start, target, torch.zeros_like(start))


def test_what_is_left_of_the_divergence_is_the_exact_one() -> None:
    """Particles drawn from `pi_b` itself: `KL_b - KL_s` within 4 standard errors over groups, for steps long and short,
    and all the way to 1.
    """
    n, groups = 4000, 60
    for b, s in ((0.0, 0.01), (0.02, 0.2), (0.3, 1.0)):
        m, v = (torch.from_numpy(a) for a in PATH.law(b))
        x = m + v.sqrt() * Noise.of(5, n * groups).normal((n * groups, 2), step=0)
        here = standing(x, groups, b)
        found = here.left(here.b) - here.left(torch.full_like(here.b, s))
        exact = PATH.divergence(b) - PATH.divergence(s)
        assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / groups**0.5
        assert float(found.std()) / groups**0.5 < 0.01 * exact


def test_the_identity_of_the_rate() -> None:
    """To first order in db the divergence falls by `(1 - b) Var_b[L] db`."""
    here = standing(torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=f64), b=0.3)
    db = 1e-6
    first = 0.7 * (here.target - here.start).var(1, correction=0) * db
    torch.testing.assert_close(here.left(here.b) - here.left(here.b + db), first, rtol=1e-4, atol=0)


ALPHAS = pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
P0 = torch.rand(12, generator=torch.Generator().manual_seed(2), dtype=f64).add(0.1)
P1 = torch.rand(12, generator=torch.Generator().manual_seed(3), dtype=f64).add(0.1)
P0, P1 = P0 / P0.sum(), P1 / P1.sum()
"""Two laws of 12 states."""


@ALPHAS
def test_the_bridge_is_the_gradient_flow_of_its_divergence(alpha: float) -> None:
    """`d log p / ds = -(f'(u) - E_p f'(u))`, solved numerically over 12 states, stays on the bridge: at every time some
    b gives the same law.
    """
    target = P1.numpy()

    def slope(s: float, log_p: np.ndarray) -> np.ndarray:
        log_u = log_p - np.log(target)
        f = log_u if alpha == 1 else (np.exp((alpha - 1) * log_u) - 1) / (alpha - 1)
        return -(f - (np.exp(log_p) * f).sum())

    flow = solve_ivp(slope, (0, 3), P0.log().numpy(), t_eval=[0.3, 1.0, 3.0], rtol=1e-10, atol=1e-12).y.T
    for log_p in torch.from_numpy(flow):

        def short(b: Tensor, first: float = float(log_p[0])) -> Tensor:
            """Whether the first state has still to go on in the direction in which it goes."""
            at = Bridge(alpha).log(b[:, None], P0.log(), P1.log()).log_softmax(1)[:, 0]
            return (at < first) == bool(P0[0] < P1[0])

        b = furthest(torch.ones(1, dtype=f64), short)
        found = Bridge(alpha).log(b[:, None], P0.log(), P1.log()).log_softmax(1)[0]
        assert 0.01 < float(b) < 0.999
        torch.testing.assert_close(found, log_p, rtol=0, atol=1e-7)


@ALPHAS
def test_the_divergence_is_its_own_definition(alpha: float) -> None:
    """`sum p_1 f(p / p_1)` over 12 states that are weighted by p, the target being known up to a factor: for the usual
    f of each alpha. And near 1 it is nearly that of 1.
    """
    u = P0 / P1
    f = {0.0: -u.log(), 0.5: 4 * (0.5 + 0.5 * u - u.sqrt()), 1.0: u * u.log(), 2.0: 0.5 * (u - 1) ** 2}[alpha]
    found = Bridge(alpha).divergence(P0.log(), (P1 / P0).log() + 3.0)
    torch.testing.assert_close(found, (P1 * f).sum(), rtol=1e-10, atol=0)
    close = Bridge(alpha + 1e-5).divergence(P0.log(), (P1 / P0).log())
    torch.testing.assert_close(close, found, rtol=1e-3, atol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_other_bridges_arrive_too(alpha: float) -> None:
    """Z within 4 standard errors after a pilot, and the target's mean; the divergence falls in a line."""
    groups, path = 100, replace(PATH, variance=(0.4, 0.3), shift=0.0)
    options = {"alpha": alpha, "log_start": path.first.log_prob, "log_target": path.log_target}
    x = path.first.sample(4000, seeds=0)
    pilot = annealed(x, schedule=ConstantRate(10), seeds=1, **options)
    left = pilot.left[:, 0]
    torch.testing.assert_close(left / left[0], torch.linspace(1, 0, 11, dtype=f64), rtol=0, atol=0.1)
    made = annealed(path.first.sample(50 * groups, seeds=2), groups=groups, pilot=pilot, seeds=3, **options)
    Z = made.log_z.exp()
    assert abs(float(Z.mean()) - 1) < 4 * float(Z.std()) / groups**0.5
    mean = made.mean()
    assert bool(((mean.mean(0) - torch.tensor(path.mean)).abs() < 4 * mean.std(0) / groups**0.5).all())


@pytest.mark.parametrize("schedule", [Linear(8), KeepESS(0.6)])
def test_the_evidence_is_unbiased_after_a_pilot(schedule: Pace) -> None:
    """`E Z = e^.7` exactly, for then nothing looks at the particles that walk, resampled or not."""
    groups, n = 400, 30
    path = replace(PATH, variance=(0.4, 0.3))
    pilot = walked(schedule, n=500, seed=7, path=path)
    x = path.first.sample(n * groups, seeds=0)
    made = annealed(x, path.first.log_prob, path.log_target, groups=groups, pilot=pilot, seeds=1)
    torch.testing.assert_close(made.schedule, pilot.schedule.expand(-1, groups))
    Z = made.log_z.exp()
    error = float(Z.std()) / groups**0.5
    assert abs(float(Z.mean()) - math.exp(0.7)) < 4 * error
    assert error < 0.03 * math.exp(0.7)


@pytest.mark.parametrize("schedule", [ConstantRate(15), KeepESS(0.8)])
def test_what_arrives_is_the_target(schedule: Pace) -> None:
    """Mean, variance and log Z: each of 20 groups is one independent estimate."""
    groups = 20
    made = walked(schedule, n=200, groups=groups)
    assert bool((made.schedule[0] == 0).all() and (made.schedule[-1] == 1).all())
    assert bool((made.schedule.diff(dim=0) >= 0).all())
    for found, exact in (
        (made.mean(), torch.tensor(PATH.mean, dtype=f64)),
        (made.mean(lambda x: x**2), PATH.last.means[0] ** 2 + torch.tensor(PATH.variance, dtype=f64)),
        (made.log_z[:, None], torch.tensor([0.7], dtype=f64)),
    ):
        error = found.std(0) / groups**0.5
        assert bool(((found.mean(0) - exact).abs() < 4 * error + 1e-9).all())
        assert bool((error < 0.05).all())


def test_modes_apart_keep_their_weights() -> None:
    made = annealed(WIDE.sample(3000, seeds=0), WIDE.log_prob, FOUR.log_prob, KeepESS(0.8), groups=6, seeds=1)
    nearest = torch.cdist(made.x, MODES).argmin(1)
    share = made.mean(lambda x: torch.nn.functional.one_hot(nearest, 4).double())
    error = share.std(0) / 6**0.5
    assert bool(((share.mean(0) - FOUR.weights).abs() < 4 * error).all())
    assert bool((error < 0.03).all())


def test_schedules_are_what_they_say() -> None:
    made = walked(Linear(5))
    torch.testing.assert_close(made.schedule[:, 0], torch.linspace(0, 1, 6, dtype=f64), rtol=0, atol=1e-12)
    assert len(walked(ConstantRate(7)).schedule) == 8
    here = standing(PATH.first.sample(400, seeds=0))
    first = walked(KeepESS(0.6)).schedule[1]
    torch.testing.assert_close(surviving(here.log_w, here.ahead(first)), torch.tensor([0.6], dtype=f64))


@ALPHAS
def test_constant_rate_lowers_the_divergence_by_the_same_at_every_step(alpha: float) -> None:
    """Where nothing is lost between the estimates (particles are given, not moved), each step lowers what the particles
    say by a T-th of what they said at first.
    """
    near = GaussianPath((0.3, -0.2), (0.9, 0.8))  # so that all divergences are finite
    here = standing(PATH.first.sample(500, seeds=0), alpha=alpha, path=near)
    whole = here.left(here.b)
    for k in range(6):
        torch.testing.assert_close(here.left(here.b), whole * (1 - k / 6), rtol=1e-6, atol=1e-6)
        b = here.b + ConstantRate(6).step(here, k)
        here = replace(here, b=b, log_w=here.log_w + here.ahead(b))
    torch.testing.assert_close(here.b, torch.ones(1, dtype=f64))


@pytest.mark.parametrize("leaps", [1, 3], ids=["MALA", "HMC"])
def test_a_move_leaves_its_density_as_it_is(leaps: int) -> None:
    """From exact samples of a lopsided mixture, with steps so long that a quarter is rejected: the law of each entry
    after the move is still the mixture's (Kolmogorov and Smirnov; p > .01).
    """
    law = GaussianMixture([0.3, 0.7], torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=f64), [0.1, 0.5])
    x = law.sample(20_000, seeds=0)
    size = torch.full_like(x, 0.7 if leaps == 1 else 0.45)
    y, accepted = HMC(leaps=leaps, repeat=3)(x, law.log_prob, size, Noise.of(1, len(x)), step=0)
    assert 0.6 < float(accepted.mean()) < 0.9
    assert float((y - x).norm(dim=1).mean()) > 0.5, "it moves"
    for i, variances in enumerate(([0.1, 0.5], [0.1, 0.5])):
        means = law.means[:, i].tolist()

        def below(q: np.ndarray, m: list[float] = means, v: list[float] = variances) -> np.ndarray:
            return 0.3 * stats.norm.cdf(q, m[0], v[0] ** 0.5) + 0.7 * stats.norm.cdf(q, m[1], v[1] ** 0.5)

        assert stats.kstest(y[:, i].numpy(), below).pvalue > 0.01


def test_the_share_accepted_is_the_mean_of_the_accepted() -> None:
    x = PATH.last.sample(20_000, seeds=0)
    y, share = HMC(leaps=1)(x, PATH.last.log_prob, torch.full_like(x, 0.4), Noise.of(1, len(x)), step=0)
    moved = (y != x).all(1).double()
    assert abs(float(moved.mean() - share.mean())) < 4 * 0.5 / len(x) ** 0.5


def test_steps_adapt_to_what_is_accepted() -> None:
    """From steps ten times too long or too short, the last moves accept about as many as they are to."""
    x = PATH.first.sample(500, seeds=0)
    for step in (0.05, 5.0):
        move = HMC(step=step, target=0.7)
        made = annealed(x, PATH.first.log_prob, PATH.log_target, Linear(40), move, seeds=1)
        assert float(made.accepted[-10:].mean()) == pytest.approx(0.7, abs=0.05)
    still = HMC(step=0.3, target=None)
    torch.testing.assert_close(still.sized(torch.ones(2), torch.zeros(2)), torch.ones(2))


def test_groups_do_not_touch_each_other() -> None:
    seeds = torch.arange(300)
    x = PATH.first.sample(300, seeds=0)
    args = (PATH.first.log_prob, PATH.log_target, KeepESS(0.7))
    together = annealed(x, *args, groups=3, seeds=seeds)
    alone = annealed(x[100:200], *args, seeds=seeds[100:200])
    torch.testing.assert_close(together.log_z[1:2], alone.log_z, rtol=1e-9, atol=1e-9)
    K = len(alone.schedule)
    torch.testing.assert_close(together.schedule[:K, 1:2], alone.schedule, rtol=1e-9, atol=1e-9)


def test_without_resampling_no_particle_is_lost() -> None:
    """The weights are then each particle's own products."""
    x = PATH.first.sample(50, seeds=0)
    args = (x, PATH.first.log_prob, PATH.log_target, Linear(4), HMC(step=1e-9, target=None))
    made = annealed(*args, resample=0.0, seeds=1)
    torch.testing.assert_close(made.x, x, rtol=0, atol=1e-6)
    weights = PATH.log_target(x) - PATH.first.log_prob(x)
    torch.testing.assert_close(made.log_w[0], weights, rtol=1e-5, atol=1e-4)
    again = annealed(*args, resample=0.9, seeds=1)
    assert len((again.x * 1e5).round().unique(dim=0)) < 45
    assert len((made.x * 1e5).round().unique(dim=0)) == 50


def half(x: Tensor) -> Tensor:
    """A standard normal, cut off below 0 in its first entry."""
    return torch.where(x[:, 0] > 0, PATH.first.log_prob(x), -math.inf)


def test_a_target_may_be_nowhere_in_places() -> None:
    x = PATH.first.sample(2000, seeds=0)
    made = annealed(x, PATH.first.log_prob, half, KeepESS(0.9), groups=4, seeds=1)
    assert bool((made.x[made.log_w.flatten().isfinite(), 0] > 0).all())
    assert float(made.log_z.exp().mean()) == pytest.approx(0.5, abs=4 * 0.5 / 2000**0.5)
    assert float(made.left[0, 0]) == math.inf
    with pytest.raises(ValueError, match="from this target is infinite: use KeepESS"):
        annealed(x, PATH.first.log_prob, half, ConstantRate(5), seeds=1)


def test_what_cannot_be_is_said() -> None:
    x = PATH.first.sample(10, seeds=0)
    with pytest.raises(ValueError, match="10 particles do not make 3 groups"):
        annealed(x, PATH.first.log_prob, PATH.log_target, groups=3)
    with pytest.raises(ValueError, match=r"must be \[10\], not \[10\] at the start and \[10, 1\] at the target"):
        annealed(x, PATH.first.log_prob, lambda x: PATH.log_target(x)[:, None])
    with pytest.raises(ValueError, match="log-densities must be numbers"):
        annealed(x, PATH.first.log_prob, lambda x: PATH.log_target(x) * math.nan)
    with pytest.raises(ValueError, match="give one or the other"):
        annealed(x, PATH.first.log_prob, PATH.log_target, Linear(2), pilot=walked(Linear(2)))
    for wrong, said in ((lambda: Linear(0), "at least 1"), (lambda: KeepESS(1.0), "between 0 and 1")):
        with pytest.raises(ValueError, match=said):
            wrong()
    with pytest.raises(ValueError, match="a step is positive"):
        HMC(step=0.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        HMC(target=1.5)


def test_every_schedule_ends_at_one() -> None:
    for schedule, n in itertools.product((Linear(3), ConstantRate(3), KeepESS(0.3)), (2, 50)):
        made = walked(schedule, n=n)
        assert float(made.schedule[-1, 0]) == 1.0
        assert bool(made.log_w.isfinite().all())
