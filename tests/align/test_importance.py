"""The estimates that importance-weighted score matching is made of, against exact mixtures, and its optimum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from align.one_gaussian import OneGaussian
from kedge import Walk, grids, solvers
from kedge.align.importance import ImportanceMatching, OwnSamples, Replayed, expected, log_noised
from kedge.exact import GaussianMixture
from kedge.fit import Draw
from kedge.fit.weightings import Uniform
from kedge.noise import Noise
from kedge.paths import GaussianPath, Trig, VarianceExploding, VariancePreserving
from kedge.train import AdamW, Tick

f64 = torch.float64
LAW = GaussianMixture([0.6, 0.4], torch.tensor([[1.0, 0.5], [-1.0, 0.0]], dtype=f64), [0.3, 0.2])
LINE = GaussianMixture([0.6, 0.4], torch.tensor([[3.0], [-3.0]], dtype=f64), [0.25, 0.25])
every_path = pytest.mark.parametrize("path", [VarianceExploding(0.05, 12.0), VariancePreserving(), Trig(1.0)], ids=str)


def states(path: GaussianPath, count: int, n: int = 1) -> tuple[Tensor, Tensor]:
    """n copies each of `count` states, at levels of their own around where noise and data are alike."""
    t = torch.linspace(0.5, 1.5, count, dtype=f64)
    t = torch.stack([torch.as_tensor(path.time_at(float(scale)), dtype=f64) for scale in t])
    x_t = path.perturb(LAW.sample(count, seeds=0), t, LAW.sample(count, seeds=1))
    return x_t.repeat_interleave(n, 0), t.repeat_interleave(n)


@every_path
def test_the_noised_density_is_unbiased_and_the_estimate_converges(path: GaussianPath) -> None:
    """`E p_t` within 4 standard errors, gamma being 3 times a density; the clean estimate within 4 of its own."""
    n, K = 400, 50
    x_t, t = states(path, 5, n)
    x_hat, log_p = expected(lambda x: LAW.log_prob(x) + 1.1, path, x_t, t, K, Noise.of(0, len(x_t)), step=0)
    p = log_p.exp().reshape(5, n)
    for k in range(5):
        exact = float((LAW.marginal(path, float(t[k * n])).log_prob(x_t[k * n : k * n + 1]) + 1.1).exp())
        assert abs(float(p[k].mean()) - exact) < 4 * float(p[k].std()) / n**0.5
    exact_x = LAW.posterior_mean(path, x_t[::n], t[::n])
    many, _ = expected(LAW.log_prob, path, x_t[::n], t[::n], 100_000, Noise.of(0, 5), step=0)
    spread = x_hat.reshape(5, n, 2).std(1) * (K / 100_000) ** 0.5
    assert bool(((many - exact_x).abs() < 4 * spread).all())


def test_the_bias_of_the_estimate_falls_as_one_over_k() -> None:
    """By a factor of 4 from 8 draws to 32, within what 25 000 repetitions tell."""
    path, n = VarianceExploding(0.05, 12.0), 25_000
    x_t, t = torch.tensor([[2.0, -0.5]], dtype=f64).expand(n, 2), torch.ones(n, dtype=f64)
    exact = LAW.posterior_mean(path, x_t[:1], t[:1])[0, 0]
    biases, errors = [], []
    for K in (8, 32):
        found = expected(LAW.log_prob, path, x_t, t, K, Noise.of(K, n), step=0)[0][:, 0]
        biases.append(float(found.mean() - exact))
        errors.append(float(found.std()) / n**0.5)
    assert abs(biases[0]) > 8 * errors[0]
    slack = 3 * (errors[0] ** 2 + 16 * errors[1] ** 2) ** 0.5
    assert abs(biases[0] - 4 * biases[1]) < slack + 0.3 * abs(biases[0]), "up to the next order in 1 / K"


@every_path
def test_the_law_of_the_noised_buffer_is_that_of_a_mixture_of_points(path: GaussianPath) -> None:
    points = LAW.sample(30, seeds=3)
    x_t, t = states(path, 6)
    law = GaussianMixture([1.0] * 30, points, [0.0] * 30)
    exact = torch.cat([law.marginal(path, float(s)).log_prob(x[None]) for x, s in zip(x_t, t, strict=True)])
    torch.testing.assert_close(log_noised(path, x_t, t, points), exact, rtol=1e-9, atol=1e-9)


class At:
    """One level for all."""

    def __init__(self, t: float) -> None:
        self.t = t

    def times(self, path: GaussianPath, u: Tensor) -> Tensor:
        return torch.full_like(u, self.t)

    def draw(self, path: GaussianPath, x: Any, noise: Noise, step: int) -> Draw:
        return Draw(torch.full((len(x),), self.t, dtype=f64), path.noise(x, noise, step, 4))


def loss_at(level: float, weigh: bool, keep: float = 1e-3, draws: int = 200) -> tuple[OneGaussian, ImportanceMatching]:
    model = OneGaussian(VarianceExploding(0.05, 12.0), 0.0, 4.0)
    return model, ImportanceMatching(
        model, LINE.log_prob, draws=draws, proposal=At(level), weighting=Uniform(of="clean"), weigh=weigh, keep=keep
    )


def test_weights_are_the_density_ratio() -> None:
    """What weighs the losses is the normalised `p_t / p_{B,t}`, to the precision of 5000 draws around each state."""
    _, loss = loss_at(2.0, weigh=True, draws=5000)
    buffer = LINE.sample(60, seeds=5) * 0.7
    batch = Replayed(buffer[:40], buffer)
    values, info = loss(batch, Tick(0, 0))
    _, plain = loss_at(2.0, weigh=False, draws=5000)
    ratio = values / plain(batch, Tick(0, 0))[0]
    draw = At(2.0).draw(loss.path, batch.x, Tick(0, 0).noise(40), 0)
    x_t = loss.path.perturb(batch.x, draw.t, draw.z)
    exact = (LINE.marginal(loss.path, 2.0).log_prob(x_t) - log_noised(loss.path, x_t, draw.t, buffer)).softmax(0)
    torch.testing.assert_close(ratio.detach(), 40 * exact, rtol=0.25, atol=0.01)
    error = (ratio.detach() / (40 * exact)).log()
    assert float(error.mean().abs()) < 4 * float(error.std()) / 40**0.5
    assert 0 < float(info["ess"]) < 1


def fitted(weigh: bool, level: float) -> OneGaussian:
    """The optimum over one large batch of a buffer that holds the second mode in one of twenty samples, not in two of
    five.
    """
    model, loss = loss_at(level, weigh)
    twisted = GaussianMixture([0.95, 0.05], LINE.means, [0.25, 0.25])
    batch = Replayed(twisted.sample(1500, seeds=1), twisted.sample(1000, seeds=2))
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=10, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        optimiser.zero_grad()
        value = loss(batch, Tick(0, 0))[0].mean()
        value.backward()
        return value.detach()

    optimiser.step(cost)  # pyright: ignore[reportArgumentType]
    return model


def test_the_weighted_optimum_is_that_of_the_target_and_the_plain_one_is_not() -> None:
    """The best linear denoiser at a level has the target's mean .6 and variance 8.89, whatever drew the states, if only
    they are weighed; else it is another.
    """
    ours, plain = fitted(True, 1.5), fitted(False, 1.5)
    mean, variance = LINE.mean[0], LINE.covariance[0, 0]
    assert abs(float(ours.mean.detach() - mean)) < 0.35
    assert float(ours.variance.detach()) == pytest.approx(float(variance), rel=0.15)
    assert float(plain.mean.detach()) > 1.5
    assert not 0.8 < float(plain.variance.detach() / variance) < 1.2


def walk(model: OneGaussian) -> Walk:
    return Walk(model, solvers.DDPM(), grids.LogSNR(4))


def test_the_buffer_is_the_models_own_and_forgets() -> None:
    source = OwnSamples(
        walk(OneGaussian(VarianceExploding(0.05, 12.0), 5.0, 0.01)), (1,), 8, fresh=10, every=3, capacity=25, dtype=f64
    )
    sizes = [len(source.next(Tick(step, 0)).buffer) for step in range(8)]
    assert sizes == [10, 10, 10, 20, 20, 20, 25, 25]
    batch = source.next(Tick(8, 0))
    assert batch.x.shape == (8, 1)
    assert float((source.samples - 5).abs().max()) < 1
    assert bool((batch.x == source.samples.T).any(1).all())
    assert len(source.samples.unique(dim=0)) == 25, "no two alike"
    given = OwnSamples(source.walk, (1,), 4, start=torch.ones(6, 1, dtype=f64))
    torch.testing.assert_close(given.next(Tick(0, 0)).x, torch.ones(4, 1, dtype=f64))


def test_it_goes_on_from_its_state() -> None:
    path = VarianceExploding(0.05, 12.0)
    ours, theirs = (OwnSamples(walk(OneGaussian(path, 1.0, 1.0)), (1,), 8, every=2, dtype=f64) for _ in range(2))
    for step in range(3):
        ours.next(Tick(step, 0))
    theirs.load(ours.state())
    torch.testing.assert_close(ours.next(Tick(4, 0)).x, theirs.next(Tick(4, 0)).x, rtol=0, atol=0)


def test_uneven_weights_are_tempered_to_what_is_to_be_kept() -> None:
    """At a low level and far from the target only one or two of 40 would count; with `keep` a quarter does."""
    far = torch.linspace(4.0, 8.0, 40, dtype=f64)[:, None]
    batch = Replayed(far, far)
    shares = []
    for keep in (1e-3, 0.25):
        _, loss = loss_at(0.2, weigh=True, keep=keep)
        _, plain = loss_at(0.2, weigh=False)
        w = (loss(batch, Tick(0, 0))[0] / plain(batch, Tick(0, 0))[0]).detach() / 40
        shares.append(float(1 / (w**2).sum()) / 40)
    assert shares[0] < 0.25
    assert shares[1] == pytest.approx(0.25, rel=1e-3)


def test_what_cannot_be_is_said() -> None:
    model = OneGaussian(VarianceExploding(0.05, 12.0), 0.0, 1.0)
    with pytest.raises(ValueError, match="at least 1: 128, 256, 0, 2048"):
        OwnSamples(walk(model), (1,), every=0)
    part = ImportanceMatching(model, LINE.log_prob).part(AdamW(1e-2), clip=None)
    assert len(part.parameters()) == 2
