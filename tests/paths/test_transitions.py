"""`bridge`, `down` and `up` against Bayes' rule, written out independently at fifty digits."""

from __future__ import annotations

import itertools
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from every_path import PATHS, alpha, between, every_path, sigma
from kedge.kernels import Gaussian, Kernel, Point
from kedge.noise import Noise
from kedge.paths import GaussianPath

EPS = torch.finfo(torch.float64).eps
SHARES = (0.0, 0.2, 0.5, 0.8, 1.0)
ETAS = (0.0, 0.3, 0.7, 1.0)


def pairs(path: GaussianPath) -> list[tuple[float, float]]:
    """`(t, s)` with s below t, to the data too, and a short step."""
    times = [between(path, share) for share in SHARES]
    falling = [(t, s) for s, t in itertools.combinations([0.0, *times], 2)]
    return [*falling, (times[2], times[2] * (1 - 1e-4))]


def conditioned(path: GaussianPath, t: float, s: float) -> tuple[Any, Any, Any]:
    """`(a, b, std)` of `q(x_s | x_t, x)` by conditioning the joint Gaussian of x_s and x_t given x:
    `Cov(x_s, x_t) = r sigma_s^2` with `x_t = r x_s + noise`.
    """
    a_t, s_t, a_s, s_s = alpha(path, t), sigma(path, t), alpha(path, s), sigma(path, s)
    r = a_t / a_s
    gain = r * s_s**2 / s_t**2
    return gain, a_s - gain * a_t, mpmath.sqrt(s_s**2 - gain * r * s_s**2)


def shared(path: GaussianPath, t: float, s: float) -> float:
    """`1 / (1 - SNR_t / SNR_s)`: how much a rounding of the levels grows in what a short step has of its own."""
    return 1 / float(1 - (alpha(path, t) * sigma(path, s) / alpha(path, s) / sigma(path, t)) ** 2)


def size(path: GaussianPath, t: float) -> float:
    """How far a rounding of t moves the log-SNR, in roundings."""
    return 8 + abs(path.log_snr(t)) + 2 * abs(t * path.d_alpha(t) / path.alpha(t))


@every_path
def test_the_ancestral_step_is_bayes_rule(path: GaussianPath) -> None:
    x_t, x_hat = torch.tensor([[1.7]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    for t, s in pairs(path):
        a, b, std = conditioned(path, t, s)
        roundings = size(path, t) * EPS
        kernel = path.down(x_t, x_hat, t, s)
        mean, exact = float(kernel.mean), float(a * mpmath.mpf(1.7) + b * mpmath.mpf(-0.4))  # pyright: ignore
        assert abs(mean - exact) < 4 * roundings * (
            abs(float(a)) * 1.7 + abs(path.alpha(s)) + abs(float(a) * path.alpha(t))
        )
        if s == 0:
            assert isinstance(kernel, Point)
            assert mean == -0.4
        else:
            assert isinstance(kernel, Gaussian)
            assert isinstance(kernel.std, float)
            assert abs(kernel.std / std - 1) < 4 * roundings * shared(path, t, s), (t, s)


@every_path
@pytest.mark.parametrize("eta", ETAS)
def test_every_bridge_keeps_the_marginal(path: GaussianPath, eta: float) -> None:
    """`N(alpha_t x, sigma_t^2)` goes to `N(alpha_s x, sigma_s^2)`, whatever x is."""
    for t, s in pairs(path):
        a, b, std = path.bridge(t, s, eta)
        assert a * path.alpha(t) + b == pytest.approx(path.alpha(s), rel=8 * EPS)
        allowed = size(path, t) * EPS
        assert a**2 * path.sigma(t) ** 2 + std**2 == pytest.approx(path.sigma(s) ** 2, rel=allowed), (t, s)
        assert (std > 0) == (eta > 0 and s > 0)


@pytest.mark.parametrize("name", ["VariancePreserving", "Cosine"])
@pytest.mark.parametrize("eta", ETAS)
def test_the_bridge_is_ddims(name: str, eta: float) -> None:
    """Song, Meng and Ermon, eq. 12 and 16, in their letters: alpha-bar is alpha^2 here."""
    path = PATHS[name]
    for t, s in pairs(path):
        bar_t, bar_s = alpha(path, t) ** 2, alpha(path, s) ** 2
        std = eta * mpmath.sqrt((1 - bar_s) / (1 - bar_t)) * mpmath.sqrt(1 - bar_t / bar_s)
        a = mpmath.sqrt(1 - bar_s - std**2) / mpmath.sqrt(1 - bar_t)
        allowed = 4 * size(path, t) * EPS * shared(path, t, s)
        got = path.bridge(t, s, eta)
        assert got[0] == pytest.approx(float(a), rel=allowed)
        assert got[1] == pytest.approx(float(mpmath.sqrt(bar_s) - a * mpmath.sqrt(bar_t)), rel=allowed, abs=allowed)
        assert got[2] == pytest.approx(float(std), rel=allowed)


def up_terms(path: GaussianPath, s: float, t: float) -> tuple[float, float]:
    """`(r, variance)` of the step up, read off its kernel."""
    kernel = path.up(torch.ones(1, 1, dtype=torch.float64), s, t)
    return float(kernel.mean), float(kernel.variance)  # pyright: ignore


@every_path
def test_noising_a_noised_state_gives_the_later_marginal(path: GaussianPath) -> None:
    """`q(x_t | x_s) q(x_s | x) = q(x_t | x)`, and two steps up are one."""
    for t, s in pairs(path):
        r, variance = up_terms(path, s, t)
        assert r * path.alpha(s) == pytest.approx(path.alpha(t), rel=4 * EPS)
        assert variance + r**2 * path.sigma(s) ** 2 == pytest.approx(path.sigma(t) ** 2, rel=8 * EPS)
    low, middle, high = (between(path, share) for share in (0.1, 0.4, 0.9))
    (r_1, v_1), (r_2, v_2), (r, v) = (
        up_terms(path, low, middle),
        up_terms(path, middle, high),
        up_terms(path, low, high),
    )
    assert r_1 * r_2 == pytest.approx(r, rel=8 * EPS)
    assert v_2 + r_2**2 * v_1 == pytest.approx(v, rel=64 * EPS)


@every_path
def test_up_and_down_are_one_joint_law(path: GaussianPath) -> None:
    """Bayes' rule pointwise: `q(x_s | x_t, x) q(x_t | x) = q(x_t | x_s) q(x_s | x)`."""
    generator = torch.Generator().manual_seed(0)
    x, x_s, x_t = torch.randn(3, 50, 1, generator=generator, dtype=torch.float64)
    t, s = between(path, 0.7), between(path, 0.5)
    x_s, x_t = path.alpha(s) * x + path.sigma(s) * x_s, path.alpha(t) * x + path.sigma(t) * x_t

    def marginal(t: float) -> Gaussian:
        return Gaussian(path.alpha(t) * x, path.sigma(t))

    backward = path.down(x_t, x, t, s).log_prob(x_s) + marginal(t).log_prob(x_t)  # pyright: ignore
    forward = path.up(x_s, s, t).log_prob(x_t) + marginal(s).log_prob(x_s)  # pyright: ignore
    torch.testing.assert_close(backward, forward, rtol=1e-10, atol=1e-10)


def state() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x_t, x_hat = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    return x_t, x_hat


@every_path
@pytest.mark.parametrize("share", [None, 0.0, 0.4, 1.0])
def test_a_step_of_no_length_is_the_identity(path: GaussianPath, share: float | None) -> None:
    """To the bit, at the data too, for one level and for levels of entries."""
    x_t, x_hat = state()
    t = 0.0 if share is None else between(path, share)
    for level in (t, torch.full((1, 1), t, dtype=torch.float64), torch.full((3, 4), t, dtype=torch.float64)):
        for eta in ETAS:
            a, b, std = (torch.as_tensor(v) for v in path.bridge(level, level, eta))
            assert (a == 1).all()
            assert (b == 0).all()
            assert (std == 0).all()
        for kernel in (path.down(x_t, x_hat, level, level), path.up(x_t, level, level)):
            drawn = kernel.draw(Noise.of(0, 3), 0)
            assert isinstance(drawn, Tensor)
            assert torch.equal(drawn, x_t)


@every_path
def test_entries_that_stand_still_among_others_that_move(path: GaussianPath) -> None:
    x_t, x_hat = state()
    high, low = between(path, 0.8), between(path, 0.3)
    t = torch.tensor([[0.0, low, high, high]], dtype=torch.float64)
    s = torch.tensor([[0.0, low, low, 0.0]], dtype=torch.float64)
    drawn = path.down(x_t, x_hat, t, s).draw(Noise.of(0, 3), 0)
    assert isinstance(drawn, Tensor)
    assert torch.equal(drawn[:, :2], x_t[:, :2])
    assert torch.equal(drawn[:, 3], x_hat[:, 3])
    assert not torch.isclose(drawn[:, 2], x_t[:, 2]).any()
    risen = path.up(x_t, s, t).draw(Noise.of(0, 3), 0)
    assert isinstance(risen, Tensor)
    assert torch.equal(risen[:, :2], x_t[:, :2])
    assert not torch.isclose(risen[:, 2:], x_t[:, 2:]).any()


@every_path
@pytest.mark.parametrize("shape", [(1,), (3,), (1, 4), (3, 4)])
def test_levels_of_entries_that_are_all_equal_are_one_level(path: GaussianPath, shape: tuple[int, ...]) -> None:
    x_t, x_hat = state()

    def steps(t: Any, s: Any) -> list[Kernel]:
        return [path.down(x_t, x_hat, t, s), path.up(x_t, s, t)]

    for t, s in pairs(path)[1:]:
        each = steps(*(torch.full(shape, v, dtype=torch.float64) for v in (t, s)))
        for one, other in zip(steps(t, s), each, strict=True):
            torch.testing.assert_close(other.mean, one.mean, rtol=1e-12, atol=1e-12)  # pyright: ignore
            allowed = 64 * EPS * shared(path, t, s) * size(path, t)
            torch.testing.assert_close(other.variance, one.variance, rtol=allowed, atol=0)  # pyright: ignore


@every_path
def test_error_is_the_square(path: GaussianPath) -> None:
    x, y = state()
    assert torch.equal(path.error({"a": x}, {"a": y})["a"], (x - y) ** 2)
