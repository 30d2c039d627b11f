"""alpha, sigma, their derivatives and the log-SNR of every path."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import diff, mpf
from mpmath import log as exact_log
from scipy import integrate
from torch import Tensor

from every_path import PATHS, alpha, every_path, levels, sigma, times
from kedge.noise import Noise
from kedge.paths import Cosine, GaussianPath, Rectified, Trig, VarianceExploding, VariancePreserving

EPS = torch.finfo(torch.float64).eps
FUNCTIONS = ("alpha", "sigma", "d_alpha", "d_sigma", "log_snr", "noise_scale")


@every_path
@pytest.mark.parametrize("name", ["alpha", "sigma"])
def test_derivatives_against_autograd(path: GaussianPath, name: str) -> None:
    """Autograd takes the slope of expm1 as expm1 + 1, which is alpha^2 with an absolute error of a rounding."""
    t = levels(path).requires_grad_()
    value = getattr(path, name)(t)
    (slope,) = torch.autograd.grad(value.sum() + 0 * t.sum(), t)
    cancelled = EPS / path.alpha(t) ** 2 if isinstance(path, VariancePreserving) else 0.0
    assert ((getattr(path, "d_" + name)(t) / slope - 1).abs()[slope != 0] < 1e-13 + cancelled).all()
    assert (getattr(path, "d_" + name)(t) + 0 * t)[slope == 0].eq(0).all()


@every_path
def test_derivatives_against_fifty_digits(path: GaussianPath) -> None:
    for t in times(path, 8):
        for name, exact in (("alpha", alpha), ("sigma", sigma)):
            slope = diff(lambda s, f=exact: f(path, s), mpf(t), h=mpf(10) ** -20 * t)
            assert getattr(path, "d_" + name)(t) == pytest.approx(float(slope), rel=1e-13, abs=0), (name, t)


@every_path
def test_against_fifty_digits_near_both_ends(path: GaussianPath) -> None:
    """A relative error of a few roundings in sigma however small t is; alpha's is that of t, magnified by `t alpha' /
    alpha`; the log-SNR's is theirs and that of its own size.
    """
    for t in times(path):
        a, s = alpha(path, t), sigma(path, t)
        magnified = 4 + abs(t * path.d_alpha(t) / path.alpha(t))
        assert abs(path.sigma(t) / s - 1) < 4 * EPS, t
        assert abs(path.alpha(t) / a - 1) < magnified * EPS, t
        exact = 2 * exact_log(a / s)
        assert abs(path.log_snr(t) - exact) < (2 * magnified + 8 + abs(exact)) * EPS, t


@every_path
def test_float_and_tensor_agree(path: GaussianPath) -> None:
    t = levels(path)
    for name in FUNCTIONS:
        f = getattr(path, name)
        alone = torch.tensor([f(v) for v in t.tolist()], dtype=torch.float64)
        torch.testing.assert_close(f(t).expand_as(t), alone, rtol=4 * EPS, atol=0)
    log_snr = path.log_snr(t)
    alone = torch.tensor([path.time_of(v) for v in log_snr.tolist()], dtype=torch.float64)
    torch.testing.assert_close(path.time_of(log_snr), alone, rtol=4 * EPS, atol=1e-18)


@every_path
def test_a_tensor_of_levels_keeps_its_dtype(path: GaussianPath) -> None:
    t = levels(path).float()
    for name in FUNCTIONS:
        assert getattr(path, name)(t).dtype == torch.float32
    assert path.time_of(path.log_snr(t)).dtype == torch.float32


@every_path
def test_data_is_clean(path: GaussianPath) -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    assert path.alpha(0.0) == 1
    assert path.sigma(0.0) == 0
    assert path.log_snr(0.0) == math.inf
    assert path.time_of(math.inf) == 0
    assert path.noise_scale(0.0) == 0
    assert (path.alpha(zero) == 1).all()
    assert (path.sigma(zero) == 0).all()
    assert (path.log_snr(zero) == math.inf).all()
    assert (path.time_of(zero + math.inf) == 0).all()


@every_path
def test_noise_only_grows(path: GaussianPath) -> None:
    t = torch.linspace(0, path.t_max, 4001, dtype=torch.float64)
    assert (path.log_snr(t).diff() < 0).all()
    assert (path.noise_scale(t).diff() > 0).all()
    assert (path.alpha(t) + 0 * t > 0).all()


# A time's relative error is |log_snr| / 2 roundings of the log-SNR; the cosine path's offset adds an absolute one.
@pytest.mark.parametrize("name", PATHS)
@given(share=st.floats(0, 1))
def test_time_of_inverts_log_snr(name: str, share: float) -> None:
    path = PATHS[name]
    t = 1e-3 * path.t_min * (path.t_max / (1e-3 * path.t_min)) ** share
    assert path.time_of(path.log_snr(t)) == pytest.approx(t, rel=64 * EPS, abs=EPS * 1e-2)
    assert path.time_at(path.noise_scale(t)) == pytest.approx(t, rel=64 * EPS, abs=EPS * 1e-2)
    both = torch.tensor([t, t], dtype=torch.float64)
    torch.testing.assert_close(path.time_of(path.log_snr(both)), both, rtol=64 * EPS, atol=EPS * 1e-2)


@pytest.mark.parametrize("name", PATHS)
@given(share=st.floats(0, 1))
def test_log_snr_inverts_time_of(name: str, share: float) -> None:
    path = PATHS[name]
    low, high = path.log_snr(path.t_max), path.log_snr(path.t_min)
    log_snr = low + share * (high - low)
    t = path.time_of(log_snr)
    slope = 2 * t * abs(path.d_alpha(t) / path.alpha(t) - path.d_sigma(t) / path.sigma(t))
    assert path.log_snr(t) == pytest.approx(log_snr, rel=8 * EPS, abs=8 * EPS * (2 + slope))


def test_variance_preserving_integrates_its_rate() -> None:
    path = VariancePreserving(beta_min=0.3, beta_max=7.0)
    for t in (0.1, 0.5, 1.0):
        total = integrate.quad(lambda s: 0.3 + s * (7.0 - 0.3), 0, t)[0]
        assert path.alpha(t) == pytest.approx(math.exp(-total / 2), rel=1e-14)


@pytest.mark.parametrize("path", [VariancePreserving(), Cosine(), Trig(sigma_data=0.3)], ids=str)
def test_the_variance_of_data_is_preserved(path: GaussianPath) -> None:
    s_d = path.sigma_data if isinstance(path, Trig) else 1.0
    t = levels(path)
    variance = path.alpha(t) ** 2 * s_d**2 + path.sigma(t) ** 2
    torch.testing.assert_close(variance, torch.full_like(t, s_d**2), rtol=1e-15, atol=0)


def test_the_straight_path_has_the_constant_velocity_z_minus_x() -> None:
    t = levels(Rectified())
    assert (Rectified().d_alpha(t) == -1).all()
    assert (Rectified().d_sigma(t) == 1).all()


def test_the_exploding_paths_time_is_its_noise_scale() -> None:
    t = levels(VarianceExploding())
    assert torch.equal(VarianceExploding().noise_scale(t), t)
    assert VarianceExploding().time_at(0.5) == pytest.approx(0.5, rel=EPS)


def test_the_trig_path_runs_between_its_scales() -> None:
    path = Trig(sigma_data=0.5, scale_min=0.01, scale_max=40.0)
    assert path.noise_scale(path.t_min) == pytest.approx(0.01, rel=1e-14)
    assert path.noise_scale(path.t_max) == pytest.approx(40.0, rel=1e-13)


@every_path
def test_prior_is_the_noise_end(path: GaussianPath) -> None:
    noise = Noise.of(0, 3)
    prior = path.prior((3, 4, 2), noise, dtype=torch.float64)
    assert torch.equal(prior, noise.normal((3, 4, 2), step=-1) * path.sigma(path.t_max))
    assert path.prior((3, 4, 2), noise).dtype == torch.float32
    torch.manual_seed(0)
    first = path.prior((20_000, 2))
    torch.manual_seed(0)
    assert torch.equal(first, path.prior((20_000, 2)))
    n = first.numel()
    assert abs((first / path.sigma(path.t_max)).var().item() - 1) < 4 * math.sqrt(2 / n)
    assert abs((first / path.sigma(path.t_max)).mean().item()) < 4 / math.sqrt(n)


@every_path
@pytest.mark.parametrize("shape", [None, (3,), (3, 4), (3, 4, 2), (1, 4)])
def test_perturb(path: GaussianPath, shape: tuple[int, ...] | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 3, 4, 2, generator=generator, dtype=torch.float64)
    if shape is None:
        t: float | Tensor = 0.7 * path.t_max
        full = torch.full((3, 4, 2), t, dtype=torch.float64)
    else:
        t = torch.rand(shape, generator=generator, dtype=torch.float64) * path.t_max
        full = t.reshape(*shape, *[1] * (3 - len(shape))).expand(3, 4, 2)
    expected = path.alpha(full) * x + path.sigma(full) * z
    torch.testing.assert_close(path.perturb(x, t, z), expected, rtol=4 * EPS, atol=4 * EPS)
    tree = (
        path.perturb({"a": x, "b": x[..., 0]}, t, {"a": z, "b": z[..., 0]}) if shape != (3, 4, 2) else {"a": expected}
    )
    torch.testing.assert_close(tree["a"], expected, rtol=4 * EPS, atol=4 * EPS)
    if "b" in tree:
        torch.testing.assert_close(tree["b"], expected[..., 0], rtol=4 * EPS, atol=4 * EPS)


@every_path
def test_perturb_draws_its_noise_from_torchs_generator_where_none_is_given(path: GaussianPath) -> None:
    x, t = torch.ones(5, 3), 0.5 * path.t_max
    torch.manual_seed(1)
    x_t = path.perturb(x, t)
    torch.manual_seed(1)
    assert torch.equal(x_t, path.perturb(x, t, torch.randn_like(x)))


@every_path
def test_noise_is_the_samples_own(path: GaussianPath) -> None:
    noise, x = Noise.of(0, 3), torch.zeros(3, 2)
    assert torch.equal(path.noise(x, noise, 4, 9), noise.normal((3, 2), 4, 9, torch.float32))  # pyright: ignore


@every_path
@pytest.mark.parametrize("share", [-1e-6, 1 + 1e-6, math.nan])
def test_times_outside_the_path(path: GaussianPath, share: float) -> None:
    t, x = share * path.t_max, torch.zeros(2, 3)
    shown = f"time {t:.6g} lies outside the path {type(path).__name__}"
    for outside in (t, torch.tensor(t, dtype=torch.float64), torch.tensor([0.5 * path.t_max, t], dtype=torch.float64)):
        with pytest.raises(ValueError, match="lies outside the path") as raised:
            path.perturb(x, outside)
        assert str(raised.value).startswith(shown)
        assert "\n" not in str(raised.value)
    for inside in (0.0, path.t_max, torch.tensor([0.0, path.t_max])):
        path.check(inside)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: VariancePreserving(beta_min=0.0), "beta_min <= beta_max"),
        (lambda: VariancePreserving(beta_min=2.0, beta_max=1.0), "beta_min <= beta_max"),
        (lambda: VariancePreserving(t_min=2.0), "t_min < t_max"),
        (lambda: Cosine(offset=-0.1), "offset >= 0"),
        (lambda: Cosine(t_max=1.0), "t_max < 1"),
        (lambda: Rectified(t_max=1.0), "t_max < 1"),
        (lambda: Rectified(t_min=0.0), "0 < t_min"),
        (lambda: VarianceExploding(t_max=-1.0), "t_min < t_max"),
        (lambda: VarianceExploding(t_min=0.0), "0 < t_min"),
        (lambda: Trig(sigma_data=0.0), "sigma_data > 0"),
        (lambda: Trig(scale_min=2.0, scale_max=1.0), "scale_min < scale_max"),
        (lambda: Trig(scale_max=math.inf), "scale_min < scale_max"),
    ],
)
def test_paths_that_make_no_sense(made: type, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as raised:
        made()
    assert "\n" not in str(raised.value)


@every_path
def test_prior_of_a_dictionary_is_drawn_field_by_field(path: GaussianPath) -> None:
    prior = path.prior({"state": (3, 4), "action": (3, 4)}, [7, 8, 9], dtype=torch.float64)
    assert torch.equal(prior["state"], path.prior((3, 4), [7, 8, 9], dtype=torch.float64))
    assert not torch.equal(prior["state"], prior["action"])
    assert path.prior({"state": (3, 4)})["state"].shape == (3, 4)
