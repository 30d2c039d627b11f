"""The oracles' own oracles: torch's distributions, autograd, quadrature, brute force."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from every_path import PATHS, between, every_path
from kedge.exact import GaussianMixture, Quadratic
from kedge.noise import Noise
from kedge.paths import GaussianPath

EPS = torch.finfo(torch.float64).eps
SHARES = (0.1, 0.4, 0.6, 0.8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotated(k: int, d: int) -> Tensor:
    """`[K, D, D]` covariances with eigenvalues between .05 and .5."""
    q = torch.linalg.qr(torch.randn(k, d, d, generator=generator(5), dtype=torch.float64))[0]
    e = 0.05 + 0.45 * torch.rand(k, d, generator=generator(6), dtype=torch.float64)
    return q @ torch.diag_embed(e) @ q.mT


def mixture(kind: str) -> GaussianMixture:
    k, event = {
        "one": (1, (3,)),
        "line": (3, (1,)),
        "full": (3, (2,)),
        "full-event": (2, (2, 3)),
        "diagonal": (3, (2, 2)),
        "isotropic": (4, (3,)),
    }[kind]
    d = math.prod(event)
    means = torch.randn(k, *event, generator=generator(1), dtype=torch.float64)
    weights = 0.2 + torch.rand(k, generator=generator(2), dtype=torch.float64)
    variances = 0.05 + 0.45 * torch.rand(k, *event, generator=generator(3), dtype=torch.float64)
    covariances = (
        variances if kind in ("line", "diagonal") else variances.flatten(1)[:, 0] if kind == "isotropic" else None
    )
    return GaussianMixture(weights, means, rotated(k, d) if covariances is None else covariances)


KINDS = ("one", "line", "full", "full-event", "diagonal", "isotropic")
every_kind = pytest.mark.parametrize("kind", KINDS)


def reference(m: GaussianMixture) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(m.weights), MultivariateNormal(m.means, m.covariances))


@every_kind
def test_log_prob_is_torchs(kind: str) -> None:
    m = mixture(kind)
    x = 2 * torch.randn(50, *m.event, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(m.log_prob(x), reference(m).log_prob(x.flatten(1)), rtol=1e-12, atol=1e-12)


@every_kind
@every_path
def test_marginals(kind: str, path: GaussianPath) -> None:
    """The law of `alpha x + sigma z`, component by component."""
    m = mixture(kind)
    for share in SHARES:
        t = between(path, share)
        noised = m.marginal(path, t)
        assert noised.event == m.event
        torch.testing.assert_close(noised.weights, m.weights, rtol=4 * EPS, atol=0)
        alpha, sigma = path.alpha(t), path.sigma(t)
        eye = torch.eye(m.dim, dtype=torch.float64)
        torch.testing.assert_close(noised.mean, alpha * m.mean, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(noised.covariance, alpha**2 * m.covariance + sigma**2 * eye, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(noised.means, alpha * m.means)
        torch.testing.assert_close(noised.covariances, alpha**2 * m.covariances + sigma**2 * eye)


@every_kind
def test_mean_and_covariance_are_those_of_the_whole(kind: str) -> None:
    m = mixture(kind)
    torch.testing.assert_close(m.mean.flatten(), reference(m).mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(m.covariance.diagonal(), reference(m).variance, rtol=1e-12, atol=1e-13)
    second = sum(w * (c + torch.outer(mu, mu)) for w, mu, c in zip(m.weights, m.means, m.covariances, strict=True))
    mean = m.mean.flatten()
    torch.testing.assert_close(m.covariance, second - torch.outer(mean, mean), rtol=1e-12, atol=1e-12)


@every_kind
@every_path
def test_the_denoiser_is_tweedies(kind: str, path: GaussianPath) -> None:
    """`x_hat = (x_t + sigma^2 grad log p(x_t)) / alpha`, the gradient by autograd of torch's own density. What it
    subtracts to get at x_hat it loses in digits.
    """
    m = mixture(kind)
    denoiser = m.denoiser(path)
    for share in SHARES:
        t = between(path, share)
        x_t = path.perturb(m.sample(20), t, torch.randn(20, *m.event, generator=generator(), dtype=torch.float64))
        x_t.requires_grad_()
        (score,) = torch.autograd.grad(reference(m.marginal(path, t)).log_prob(x_t.flatten(1)).sum(), x_t)
        alpha, sigma = path.alpha(t), path.sigma(t)
        tweedie = (x_t + sigma**2 * score) / alpha
        allowed = 256 * EPS * (1 + (x_t.abs() + sigma**2 * score.abs()) / alpha)
        assert ((denoiser(x_t, t) - tweedie).abs() < allowed).all(), t
        each = torch.full((20,), t, dtype=torch.float64)
        torch.testing.assert_close(denoiser(x_t, each), denoiser(x_t, t), rtol=1e-12, atol=1e-12)


@every_kind
@every_path
def test_the_posterior_covariance_is_the_denoisers_slope(kind: str, path: GaussianPath) -> None:
    """`Cov(x | x_t) = sigma^2 / alpha dx_hat / dx_t` (the second-order Tweedie formula)."""
    m = mixture(kind)
    denoiser = m.denoiser(path)
    for share in SHARES[::2]:
        t = between(path, share)
        x_t = path.perturb(m.sample(4), t, torch.randn(4, *m.event, generator=generator(), dtype=torch.float64))

        def flat(x: Tensor, t: float = t) -> Tensor:
            return denoiser(x.reshape(1, *m.event), t).flatten()

        slope = torch.stack([torch.autograd.functional.jacobian(flat, x.flatten()) for x in x_t])  # pyright: ignore
        covariance = m.posterior_covariance(path, x_t, t)
        expected = path.sigma(t) ** 2 / path.alpha(t) * slope
        torch.testing.assert_close(covariance, expected, rtol=1e-9, atol=1e-11)
        each = m.posterior_covariance(path, x_t, torch.full((4,), t, dtype=torch.float64))
        torch.testing.assert_close(each, covariance, rtol=1e-11, atol=1e-13)


def test_levels_of_samples() -> None:
    """Each sample at a level of its own equals each alone, whatever the levels' dtype and shape."""
    m, path = mixture("full"), PATHS["VariancePreserving"]
    t = torch.tensor([between(path, share) for share in SHARES], dtype=torch.float64)
    x_t = torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    alone = torch.cat([m.denoiser(path)(x_t[i : i + 1], float(t[i])) for i in range(4)])
    for levels in (t, t[:, None]):
        torch.testing.assert_close(m.denoiser(path)(x_t, levels), alone, rtol=1e-12, atol=1e-13)
    rounded = t.float()
    alone = torch.cat([m.denoiser(path)(x_t[i : i + 1], float(rounded[i])) for i in range(4)])
    torch.testing.assert_close(m.denoiser(path)(x_t, rounded), alone, rtol=1e-12, atol=1e-13)
    one = m.denoiser(path)(x_t, torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(one, m.denoiser(path)(x_t, 0.3), rtol=1e-12, atol=1e-13)
    assert m.denoiser(path)(x_t.float(), 0.3).dtype == torch.float32
    with pytest.raises(ValueError, match=r"one level a sample, got levels of shape \(4, 2\)"):
        m.denoiser(path)(x_t, torch.full((4, 2), 0.3))


def test_clean_data_is_its_own_estimate() -> None:
    m = mixture("full")
    x = m.sample(5)
    for path in PATHS.values():
        torch.testing.assert_close(m.denoiser(path)(x, 0.0), x, rtol=1e-12, atol=1e-12)


def test_point_masses() -> None:
    """No density, but a denoiser: it tells which one a state came from, and the data from itself."""
    m, path = GaussianMixture([0.25, 0.75], torch.tensor([[0.0], [2.0]]), [0.0, 0.0]), PATHS["VarianceExploding"]
    x_t = torch.tensor([[0.0], [2.0], [0.7]], dtype=torch.float64)
    odds = 3 * torch.exp((x_t**2 - (x_t - 2) ** 2) / (2 * 0.5**2))
    torch.testing.assert_close(m.denoiser(path)(x_t, 0.5), 2 * odds / (1 + odds), rtol=1e-12, atol=1e-12)
    t = torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(m.denoiser(path)(x_t, t)[:2], x_t[:2], rtol=0, atol=0)
    assert m.denoiser(path)(x_t, t)[2].isfinite()
    torch.testing.assert_close(m.denoiser(path)(x_t[:2], 0.0), x_t[:2], rtol=0, atol=0)
    assert m.loss(path, 0.0) == 0
    with pytest.raises(ValueError, match="singular covariance has no density"):
        m.log_prob(x_t)


def test_singular_covariances_of_any_size() -> None:
    """Their eigenvalues are 0 to a rounding of the largest, not of 1."""
    A = 1e3 * torch.randn(6, 2, generator=generator(), dtype=torch.float64)
    m = GaussianMixture([1.0], torch.zeros(1, 6), (A @ A.T)[None])
    torch.testing.assert_close(m.covariance, A @ A.T, rtol=1e-12, atol=0)


# Samples


@every_kind
def test_samples_have_the_mixtures_law(kind: str) -> None:
    """Mean and covariance within 4 standard errors, entry by entry, and the share of each component's own side."""
    m, n = mixture(kind), 40_000
    x = m.sample(n, seeds=3).flatten(1)
    centred = x - m.mean.flatten()
    error = centred.std(0) / math.sqrt(n)
    assert (centred.mean(0).abs() < 4 * error).all()
    products = centred[:, :, None] * centred[:, None, :]
    assert ((products.mean(0) - m.covariance).abs() < 4 * products.std(0) / math.sqrt(n)).all()
    entropy = -m.log_prob(x.reshape(n, *m.event))  # its mean is the entropy, which a wrong shape of the law moves
    other = -reference(m).log_prob(reference(m).sample((n,)))
    assert abs(entropy.mean() - other.mean()) < 4 * math.sqrt((entropy.var() + other.var()) / n)


def test_samples_are_keyed() -> None:
    m = mixture("full-event")
    assert torch.equal(m.sample(5, seeds=1), m.sample(8, seeds=1)[:5])
    assert not torch.isclose(m.sample(5, seeds=1), m.sample(5, seeds=2)).any()
    assert torch.equal(m.sample(2, seeds=torch.tensor([7, 9]))[1:], m.sample(1, seeds=torch.tensor([9])))
    assert m.sample(2, dtype=torch.float32).dtype == torch.float32
    assert m.sample(2).shape == (2, 2, 3)


def test_a_sample_is_independent_of_the_noise_of_the_same_seed() -> None:
    """Else `x_t = alpha x + sigma z` would not have the marginal's law for anyone who keeps to one seed."""
    m = GaussianMixture([1.0], torch.zeros(1, 2), [1.0])
    n = 20_000
    x, noise = m.sample(n, seeds=4), Noise.of(4, n)
    for slot, step in itertools.product(range(6), (-1, 0)):
        if (slot, step) != (5, 0):
            z = noise.normal((n, 2), step, slot)
            assert (x * z).mean().abs() < 4 / math.sqrt(2 * n), (slot, step)


# The exact loss


@every_kind
def test_loss_is_the_mean_posterior_variance(kind: str) -> None:
    """Against brute force over exact draws of x and z: the denoiser's own squared error, within 4 standard errors."""
    m, path, n = mixture(kind), PATHS["Trig"], 20_000
    x = m.sample(n, seeds=8)
    for i, share in enumerate(SHARES):
        t = between(path, share)
        z = torch.randn(x.shape, generator=generator(i), dtype=torch.float64)
        error = ((m.denoiser(path)(path.perturb(x, t, z), t) - x) ** 2).flatten(1).mean(1)
        assert abs(error.mean().item() - m.loss(path, t)) < 4 * error.std().item() / math.sqrt(n), t


@pytest.mark.parametrize("share", SHARES)
def test_loss_on_a_line_by_adaptive_quadrature(share: float) -> None:
    path = PATHS["Cosine"]
    t = between(path, share)
    m = GaussianMixture([0.2, 0.5, 0.3], torch.tensor([[-1.0], [0.1], [0.7]]), [0.09, 0.0025, 0.2])
    noised = m.marginal(path, t)

    def integrand(v: float) -> float:
        x_t = torch.tensor([[v]], dtype=torch.float64)
        return float(noised.log_prob(x_t).exp() * m.posterior_covariance(path, x_t, t)[0, 0, 0])

    reach = 10 * math.sqrt(float(noised.covariance))
    points = (noised.means[:, 0]).tolist()
    exact = integrate.quad(integrand, -reach, reach, points=points, epsabs=1e-12, epsrel=1e-10, limit=200)[0]
    assert m.loss(path, t) == pytest.approx(exact, rel=1e-8)


@every_kind
def test_loss_depends_on_the_noise_scale_alone(kind: str) -> None:
    m = mixture(kind)
    for scale in (0.3,) if m.dim == 2 else (0.01, 0.2, 1.5, 20.0):
        losses = [m.loss(path, path.time_at(scale)) for path in PATHS.values()]
        assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-9)


@every_kind
def test_limits_of_the_loss(kind: str) -> None:
    """Without noise nothing is lost, with a little the noise itself, `sigma^2`; all noise leaves the total variance."""
    m, path = mixture(kind), PATHS["VarianceExploding"]
    variance = m.covariance.diagonal().mean().item()
    assert m.loss(path, 1e5) == pytest.approx(variance, rel=1e-3 if m.dim > 2 else 1e-8)
    assert m.loss(path, 1e-4) == pytest.approx(1e-8, rel=1e-6)
    assert m.loss(path, 0.0) == 0
    losses = [m.loss(path, scale) for scale in (1e-3, 0.1, 0.5, 3.0, 100.0)]
    assert all(low < high for low, high in itertools.pairwise(losses))


def test_loss_in_closed_form_for_one_gaussian() -> None:
    m, path = mixture("one"), PATHS["VarianceExploding"]
    e = torch.linalg.eigvalsh(m.covariances[0])
    for sigma in (0.01, 0.5, 4.0):
        assert m.loss(path, sigma) == pytest.approx((e * sigma**2 / (e + sigma**2)).mean().item(), rel=1e-12)


@pytest.mark.parametrize("d", [3, 6])
@pytest.mark.parametrize("scale", [0.15, 0.5, 2.0])
def test_quadrature_above_two_dimensions(d: int, scale: float) -> None:
    """Isotropic components along one line: the part between them lives on that line, so the answer is a one-dimensional
    one, known to rounding. 4096 low-discrepancy points come within 1 % of the loss, 65536 within a quarter of that.
    """
    path = PATHS["VarianceExploding"]
    direction = torch.nn.functional.normalize(torch.arange(1.0, d + 1).double(), dim=0)
    places = torch.tensor([-1.0, 0.2, 0.9], dtype=torch.float64)
    variances = [0.04, 0.1, 0.02]
    whole = GaussianMixture([0.3, 0.3, 0.4], places[:, None] * direction, variances)
    line = GaussianMixture([0.3, 0.3, 0.4], places[:, None], variances)
    # off the line each component has its own shrinkage, but which component it is must be told from all entries, so
    # the variances' own part is the same only where they are equal: take them equal here
    whole, line = (GaussianMixture(m.weights, m.means, [0.04] * 3) for m in (whole, line))
    rest = 0.04 * scale**2 / (0.04 + scale**2)
    exact = (line.loss(path, scale) + (d - 1) * rest) / d
    assert whole.loss(path, scale) == pytest.approx(exact, rel=0.01)
    assert whole.loss(path, scale, nodes=65536) == pytest.approx(exact, rel=0.0025)


def test_the_plane_is_converged_to_rounding() -> None:
    """The same line in two dimensions, components of std .3 and .05 among them."""
    path = PATHS["VarianceExploding"]
    direction = torch.tensor([0.6, 0.8], dtype=torch.float64)
    places = torch.tensor([[-1.0], [0.2], [0.9]], dtype=torch.float64)
    plane = GaussianMixture([0.3, 0.3, 0.4], places * direction, [0.04] * 3)
    line = GaussianMixture([0.3, 0.3, 0.4], places, [0.04] * 3)
    for scale in (0.02, 0.15, 0.5, 2.0):
        rest = 0.04 * scale**2 / (0.04 + scale**2)
        assert plane.loss(path, scale) == pytest.approx((line.loss(path, scale) + rest) / 2, rel=1e-10)


def test_the_plane_with_stds_of_a_third_and_a_twentieth() -> None:
    """By a plain sum over the plane, where neither component has a grid of its own."""
    m, path, scale = (
        GaussianMixture([0.5, 0.5], torch.tensor([[-0.3, 0.0], [0.2, 0.1]]), [0.09, 0.0025]),
        PATHS["Trig"],
        0.1,
    )
    t = path.time_at(scale)
    side = torch.linspace(-2.5, 2.5, 501, dtype=torch.float64)
    x_t = torch.cartesian_prod(side, side)
    density = m.marginal(path, t).log_prob(x_t).exp() * (side[1] - side[0]) ** 2
    variance = m.posterior_covariance(path, x_t, t).diagonal(dim1=1, dim2=2).mean(1)
    assert m.loss(path, t) == pytest.approx((density * variance).sum().item(), rel=1e-9)


# Tilted targets


def reward(d: int, event: tuple[int, ...], seed: int = 0) -> Quadratic:
    """Neither convex nor concave, and tame enough for the mixtures here."""
    A = torch.randn(d, d, generator=generator(10 + seed), dtype=torch.float64)
    return Quadratic(0.3 * (A + A.T), torch.randn(event, generator=generator(20 + seed), dtype=torch.float64))


@every_kind
def test_a_reward_is_its_formula(kind: str) -> None:
    m = mixture(kind)
    r = reward(m.dim, m.event)
    x = torch.randn(7, *m.event, generator=generator(), dtype=torch.float64)
    flat = x.flatten(1)
    expected = torch.stack([r.b.flatten() @ v - 0.5 * v @ r.A @ v for v in flat])
    torch.testing.assert_close(r(x), expected, rtol=1e-12, atol=1e-12)


@every_kind
def test_the_tilted_density_is_the_density_times_the_exponential(kind: str) -> None:
    """`log p_tilted - log p - r` is one constant, minus the log-partition."""
    m = mixture(kind)
    r = reward(m.dim, m.event)
    tilted = m.tilt(r)
    assert tilted.event == m.event
    x = 2 * torch.randn(40, *m.event, generator=generator(), dtype=torch.float64)
    constant = tilted.log_prob(x) - m.log_prob(x) - r(x)
    assert (constant + m.log_partition(r)).abs().max() < 1e-10


def test_log_partition_on_a_line() -> None:
    m = mixture("line")
    r = Quadratic(torch.tensor([[0.8]]), torch.tensor([1.3]))

    def integrand(v: float) -> float:
        x = torch.tensor([[v]], dtype=torch.float64)
        return float((m.log_prob(x) + r(x)).exp())

    exact = integrate.quad(integrand, -10, 10, points=m.means[:, 0].tolist(), epsrel=1e-11, limit=200)[0]
    assert m.log_partition(r) == pytest.approx(math.log(exact), rel=1e-8)


def test_log_partition_in_the_plane() -> None:
    m = mixture("full")
    r = reward(2, (2,))
    side = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    x = torch.cartesian_prod(side, side)
    exact = (m.log_prob(x) + r(x)).exp().sum() * (side[1] - side[0]) ** 2
    assert m.log_partition(r) == pytest.approx(exact.log().item(), abs=1e-10)


def test_tilting_point_masses_moves_their_weights_alone() -> None:
    m = GaussianMixture([0.5, 0.5], torch.tensor([[0.0], [2.0]]), [0.0, 0.0])
    r = Quadratic(torch.tensor([[0.5]]), torch.tensor([1.0]))
    tilted = m.tilt(r)
    assert torch.equal(tilted.means, m.means)
    assert (tilted.covariances == 0).all()
    odds = math.exp(1.0 * 2.0 - 0.25 * 2.0**2)
    torch.testing.assert_close(tilted.weights, torch.tensor([1, odds], dtype=torch.float64) / (1 + odds))
    assert m.log_partition(r) == pytest.approx(math.log((1 + odds) / 2))


def test_two_tilts_are_one() -> None:
    m = mixture("full")
    r, q = reward(2, (2,)), reward(2, (2,), seed=1)
    both = m.tilt(Quadratic(r.A + q.A, r.b + q.b))
    torch.testing.assert_close(m.tilt(r).tilt(q).means, both.means, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(m.tilt(r).tilt(q).weights, both.weights, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("growth", [1.0, 1.01, 5.0])
def test_a_reward_that_outgrows_the_mixture(growth: float) -> None:
    m = GaussianMixture([0.5, 0.5], torch.zeros(2, 2), torch.tensor([[1.0, 0.1], [0.5, 0.2]]))
    r = Quadratic(torch.diag(torch.tensor([-growth, 0.0])), torch.zeros(2))
    with pytest.raises(ValueError, match="no finite mass") as raised:
        m.tilt(r)
    assert "\n" not in str(raised.value)
    m.tilt(Quadratic(torch.diag(torch.tensor([-0.99, 0.0])), torch.zeros(2)))


def test_a_reward_that_outgrows_the_mixture_along_two_axes() -> None:
    """Where the determinant, a product of two negative numbers, does not show it."""
    m = GaussianMixture([1.0], torch.zeros(1, 2), [1.0])
    with pytest.raises(ValueError, match="no finite mass"):
        m.tilt(Quadratic(-2 * torch.eye(2), torch.zeros(2)))


# Bad input

TWO = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: GaussianMixture([1.0, 1.0], torch.zeros(2), [1.0, 1.0]), r"means: expected \[K, \*event\]"),
        (lambda: GaussianMixture([1.0], TWO, [1.0, 1.0]), "weights: expected 2 positive numbers"),
        (lambda: GaussianMixture([1.0, 0.0], TWO, [1.0, 1.0]), "weights: expected 2 positive numbers"),
        (lambda: GaussianMixture([1.0, math.nan], TWO, [1.0, 1.0]), "weights: expected 2 positive numbers"),
        (lambda: GaussianMixture([1.0, 1.0], TWO, torch.ones(3)), r"covariances: expected \[2\]"),
        (lambda: GaussianMixture([1.0, 1.0], TWO, [1.0, -1.0]), "covariances: not positive semi-definite"),
        (
            lambda: GaussianMixture([1.0, 1.0], TWO, torch.eye(3).roll(1, 0).expand(2, 3, 3)),
            "covariances: not symmetric",
        ),
        (lambda: Quadratic(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.zeros(2)), "A must be symmetric"),
        (lambda: Quadratic(torch.eye(2), torch.zeros(3)), "A must be symmetric"),
    ],
)
def test_mixtures_and_rewards_that_make_no_sense(make: Callable[[], Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_lists_and_arrays_will_do() -> None:
    means = [[0.0, 1.0], [1.0, 0.0]]
    made = inspect.unwrap(GaussianMixture.__init__)
    one = GaussianMixture([1.0, 3.0], torch.tensor(means), [0.1, 0.2])
    other = GaussianMixture.__new__(GaussianMixture)
    made(other, np.array([0.25, 0.75]), np.array(means), np.array([0.1, 0.2]))
    x = torch.zeros(1, 2)
    torch.testing.assert_close(one.log_prob(x), other.log_prob(x))


def test_samples_without_a_seed_differ_and_follow_torchs_generator() -> None:
    m = GaussianMixture([1.0], torch.zeros(1, 2), [1.0])
    torch.manual_seed(0)
    first, second = m.sample(5), m.sample(5)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(m.sample(5), first)
