"""The weightings that are functions, against their closed forms and the errors that they stand for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kedge.fit.weightings import EDM, LearnedHead, MinSNR, Uniform, Weighting
from kedge.paths import Cosine, GaussianPath, Rectified, Trig, VarianceExploding, VariancePreserving

PATHS: list[GaussianPath] = [Trig(0.7), VariancePreserving(), Cosine(), VarianceExploding(), Rectified()]


def levels(path: GaussianPath) -> Tensor:
    return torch.linspace(path.t_min + 1e-3, path.t_max * 0.999, 41, dtype=torch.float64)


def ids(path: GaussianPath) -> str:
    return type(path).__name__


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_edm_is_karras_lambda_of_the_noise_scale(path: GaussianPath) -> None:
    t, s_d = levels(path), 0.6
    scale = path.noise_scale(t)
    want = (scale**2 + s_d**2) / (scale * s_d) ** 2
    torch.testing.assert_close(EDM(s_d)(path.log_snr(t)), want, rtol=1e-10, atol=0)


@pytest.mark.parametrize("sigma_data", [0.3, 0.5, 1.0])
def test_on_a_trig_path_the_weight_of_v_is_edms_lambda(sigma_data: float) -> None:
    path = Trig(sigma_data)
    t = levels(path)
    got = Uniform("v", sigma_data)(path.log_snr(t))
    torch.testing.assert_close(got, (sigma_data * t.sin()) ** -2, rtol=1e-10, atol=0)
    torch.testing.assert_close(got, EDM(sigma_data)(path.log_snr(t)))


@pytest.mark.parametrize("path", [VariancePreserving(), Cosine()], ids=ids)
def test_on_a_variance_preserving_path_the_weight_of_v_is_the_error_of_v(path: GaussianPath) -> None:
    """`v = alpha z - sigma x`, whose estimate from x_hat is off by `(x - x_hat) / sigma`: SNR + 1 = 1 / sigma^2."""
    t = levels(path)
    got = Uniform("v")(path.log_snr(t))
    torch.testing.assert_close(got, path.log_snr(t).exp() + 1)
    torch.testing.assert_close(got, path.sigma(t) ** -2, rtol=1e-9, atol=0)


@pytest.mark.parametrize("path", PATHS, ids=ids)
@pytest.mark.parametrize("of", ["clean", "eps", "velocity"])
def test_the_weighted_clean_error_is_the_error_of_the_quantity(of: Any, path: GaussianPath) -> None:
    """Two estimates of x at the same x_t, both turned into the quantity."""
    t = levels(path)
    g = torch.Generator().manual_seed(0)
    x_t, a, b = (torch.randn(41, 3, generator=g, dtype=torch.float64) for _ in range(3))
    one, other = (path.convert(x, x_t, t, "clean", of) for x in (a, b))
    weight = Uniform(of, path=path)(path.log_snr(t))
    torch.testing.assert_close(weight[:, None] * (a - b) ** 2, (one - other) ** 2, rtol=1e-6, atol=1e-12)


def test_plain_flow_matching_is_the_error_of_z_minus_x() -> None:
    path = Rectified()
    t = levels(path)
    torch.testing.assert_close(Uniform("velocity", path=path)(path.log_snr(t)), t**-2, rtol=1e-9, atol=0)


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_min_snr_is_bounded_by_gamma(path: GaussianPath) -> None:
    t, s_d, gamma = levels(path), 0.5, 5.0
    want = torch.clamp((s_d / path.noise_scale(t)) ** 2, max=gamma)
    got = MinSNR(gamma, s_d)(path.log_snr(t))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=0)
    assert float(got.max()) == gamma
    assert float(got.min()) < gamma


@pytest.mark.parametrize("weighting", [Uniform("v"), EDM(), MinSNR(), Uniform("clean"), LearnedHead(features=8)])
def test_a_weighting_keeps_shape_and_precision_and_costs_nothing_by_itself(weighting: Weighting) -> None:
    for dtype in (torch.float32, torch.float64):
        log_snr = torch.linspace(-4, 4, 6, dtype=dtype).reshape(2, 3)
        weight = weighting(log_snr)
        assert weight.shape == (2, 3)
        assert weight.dtype == dtype
        assert bool((weight > 0).all())
        assert torch.equal(weighting.penalty(log_snr), torch.zeros_like(log_snr))
    weighting.cover(log_snr)
    weighting.update(log_snr, log_snr.exp())
    assert torch.equal(weighting(log_snr), weight)


def test_what_it_cannot_weigh_is_refused() -> None:
    with pytest.raises(ValueError, match='Uniform\\(of="velocity"\\) needs the path whose velocity it is'):
        Uniform("velocity")
    with pytest.raises(Exception, match="of"):
        Uniform("noise")  # pyright: ignore[reportArgumentType]
