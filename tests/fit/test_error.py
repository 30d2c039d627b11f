"""The denoising error: against the exact loss of a mixture, in each quantity, with pinned entries, with gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kedge.denoise import Denoiser
from kedge.exact import GaussianMixture
from kedge.fit import Draw, denoising_error, level_error
from kedge.paths import Cosine, GaussianPath, Rectified, Trig, VarianceExploding, VariancePreserving

PATHS: list[GaussianPath] = [Trig(0.5), VariancePreserving(), Cosine(), VarianceExploding(), Rectified()]
F64 = torch.float64


def ids(path: GaussianPath) -> str:
    return type(path).__name__


class Spy(nn.Module):
    """An affine map of what it hears, entry by entry, which keeps what it heard."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3, dtype=F64))
        self.heard: list[Tensor] = []

    def forward(self, x: Tensor, told: Tensor, cond: Any = None) -> Tensor:
        self.heard.append(x)
        told = told.reshape(told.shape + (1,) * (x.ndim - told.ndim))
        return self.a * x.sin() + 0.1 * told


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def some_times(path: GaussianPath, *shape: int, seed: int = 1) -> Tensor:
    u = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return path.t_min + (0.1 + 0.8 * u) * (path.t_max - path.t_min)


def asked(*arguments: Any, **options: Any) -> tuple[Any, Any]:
    """`denoising_error`, of states whose kind the test knows."""
    return denoising_error(*arguments, **options)


def spy_denoiser(path: GaussianPath, predict: Any = "eps", **options: Any) -> tuple[Denoiser, Spy]:
    spy = Spy()
    sigma_data = 0.6 if predict == "edm" and not isinstance(path, Trig) else None
    return Denoiser(spy, path, predict, sigma_data=sigma_data, **options), spy


@pytest.mark.parametrize("path", PATHS, ids=ids)
@pytest.mark.parametrize("scale", [0.1, 0.5, 3.0])
def test_with_the_exact_denoiser_its_mean_is_the_exact_loss(path: GaussianPath, scale: float) -> None:
    """At 40,000 draws, within four standard errors of the quadrature."""
    n = 40000
    mixture = GaussianMixture([0.4, 0.6], torch.tensor([[-0.5, 0.2], [0.5, 0.0]]), [0.02, 0.05])
    t = float(path.time_at(scale))
    draw = Draw(torch.full((n,), t, dtype=F64), random(n, 2, seed=3))
    error, estimate = asked(mixture.denoiser(path), mixture.sample(n, seeds=5), draw)
    L = level_error(error, draw.t)
    assert error.shape == estimate.x.shape == (n, 2)
    assert L.shape == (n,)
    assert abs(float(L.mean()) - mixture.loss(path, t)) < 4 * float(L.std()) / math.sqrt(n)


@pytest.mark.parametrize("path", PATHS, ids=ids)
@pytest.mark.parametrize("space", ["clean", "eps", "velocity", "score"])
def test_in_each_quantity_it_is_that_quantitys_own_error(space: Any, path: GaussianPath) -> None:
    """The estimate and the truth are both turned into the quantity, and subtracted there."""
    denoiser, _ = spy_denoiser(path)
    x, z, t = random(16, 3), random(16, 3, seed=2), some_times(path, 16)
    error, estimate = asked(denoiser, x, Draw(t, z), space=space)
    x_t = path.perturb(x, t, z)
    said, true = (path.convert(value, x_t, t, "clean", space) for value in (estimate.x, x))
    torch.testing.assert_close(error, (said - true) ** 2, rtol=1e-8, atol=1e-14)
    truth: dict[str, Tensor] = {
        "clean": x,
        "eps": z,
        "velocity": path.d_alpha(t)[:, None] * x + path.d_sigma(t)[:, None] * z,
        "score": -z / path.sigma(t)[:, None],
    }
    torch.testing.assert_close(true, truth[space], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_the_factors_are_the_known_ones(path: GaussianPath) -> None:
    denoiser, _ = spy_denoiser(path)
    x, z, t = random(16, 3), random(16, 3, seed=2), some_times(path, 16)
    of = {s: denoising_error(denoiser, x, Draw(t, z), space=s)[0] for s in ("clean", "eps", "velocity", "score")}
    snr, sigma = path.log_snr(t).exp()[:, None], path.sigma(t)[:, None]
    wronskian = (path.alpha(t) * path.d_sigma(t) - path.d_alpha(t) * path.sigma(t))[:, None]
    torch.testing.assert_close(of["eps"], snr * of["clean"], rtol=1e-9, atol=0)
    torch.testing.assert_close(of["score"], of["eps"] / sigma**2, rtol=1e-9, atol=0)
    torch.testing.assert_close(of["velocity"], (wronskian / sigma) ** 2 * of["clean"], rtol=1e-8, atol=0)


@pytest.mark.parametrize("path", PATHS, ids=ids)
@pytest.mark.parametrize("predict", ["clean", "eps", "velocity", "score", "edm", "trig"])
def test_native_is_the_error_of_the_networks_own_output(predict: Any, path: GaussianPath) -> None:
    """The output F that would give x exactly, by each parameterisation's definition."""
    if predict == "trig":
        path = Trig(0.5, 0.01, 40.0)
    denoiser, spy = spy_denoiser(path, predict)
    x, z, t = random(16, 3), random(16, 3, seed=2), some_times(path, 16)
    error, _ = denoising_error(denoiser, x, Draw(t, z), space="native")
    F = spy(spy.heard[0], denoiser.told(t))
    alpha, sigma, t_ = path.alpha(t)[:, None], path.sigma(t)[:, None], t[:, None]
    x_t, s_d = alpha * x + sigma * z, denoiser.sigma_data or math.nan
    wanted = {
        "clean": x,
        "eps": z,
        "velocity": path.d_alpha(t)[:, None] * x + path.d_sigma(t)[:, None] * z,
        "score": -z / sigma,
        # Karras et al., eq. 8, in their state x_t / alpha and noise scale s
        "edm": _karras(x, x_t / alpha, sigma / alpha, s_d),
        # Lu and Song, section 3: sigma_data F is the velocity cos(t) (sigma_data z) - sin(t) x
        "trig": (t_.cos() * s_d * z - t_.sin() * x) / s_d,
    }[predict]
    torch.testing.assert_close(error, (F - wanted) ** 2, rtol=1e-7, atol=1e-12)


def _karras(x: Tensor, y: Tensor, s: Tensor, s_d: float) -> Tensor:
    c_skip, c_out = s_d**2 / (s**2 + s_d**2), s * s_d / (s**2 + s_d**2).sqrt()
    return (x - c_skip * y) / c_out


@pytest.mark.parametrize("path", PATHS, ids=ids)
@pytest.mark.parametrize("space", ["clean", "eps", "native"])
def test_entries_may_have_levels_of_their_own(path: GaussianPath, space: Any) -> None:
    """`[B, T]` levels, against the same entries one by one."""
    denoiser, _ = spy_denoiser(path)
    x, z, t = random(4, 5, 2), random(4, 5, 2, seed=2), some_times(path, 4, 5)
    error, _ = denoising_error(denoiser, x, Draw(t, z), space=space)
    L = level_error(error, t)
    assert L.shape == (4, 5)
    torch.testing.assert_close(L, error.mean(2))
    for i in range(5):
        alone, _ = denoising_error(denoiser, x[:, i], Draw(t[:, i], z[:, i]), space=space)
        torch.testing.assert_close(error[:, i], alone, rtol=1e-12, atol=1e-15)


def test_equal_levels_of_all_entries_are_one_level() -> None:
    denoiser, _ = spy_denoiser(VariancePreserving())
    x, z, t = random(4, 5, 2), random(4, 5, 2, seed=2), some_times(VariancePreserving(), 4)
    one, _ = denoising_error(denoiser, x, Draw(t, z))
    each, _ = denoising_error(denoiser, x, Draw(t[:, None].expand(4, 5), z))
    torch.testing.assert_close(one, each, rtol=1e-12, atol=0)
    torch.testing.assert_close(level_error(one, t), level_error(each, t[:, None].expand(4, 5)).mean(1))


def test_another_target_takes_the_place_of_x() -> None:
    denoiser, _ = spy_denoiser(Trig(0.5))
    x, z, t, target = random(8, 3), random(8, 3, seed=2), some_times(Trig(0.5), 8), random(8, 3, seed=4)
    draw = Draw(t, z)
    error, estimate = asked(denoiser, x, draw, target=target, space="eps")
    torch.testing.assert_close(error, Trig(0.5).log_snr(t).exp()[:, None] * (estimate.x - target) ** 2)
    assert torch.equal(estimate.x, asked(denoiser, x, draw)[1].x)  # x_t is still made of x


@pytest.mark.parametrize("space", ["clean", "velocity", "native"])
def test_nothing_is_detached(space: Any) -> None:
    """Gradients to data, noise, times, target and network, against finite differences."""
    denoiser, spy = spy_denoiser(Trig(0.5), "trig")
    x, z, target = (random(2, 3, seed=s).requires_grad_() for s in (0, 2, 4))
    t = torch.tensor([0.4, 1.1], dtype=F64, requires_grad=True)

    def total(x: Tensor, z: Tensor, t: Tensor, target: Tensor, a: Tensor) -> Tensor:
        with torch.no_grad():
            spy.a.copy_(a)
        call = torch.func.functional_call
        held = Held(denoiser, space)
        return call(held, {"denoiser.net.a": a}, (x, z, t, target))

    a = torch.tensor(0.3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(total, (x, z, t, target, a))
    for value in torch.autograd.grad(total(x, z, t, target, a).sum(), (x, z, t, target, a)):
        assert bool((value != 0).all())


class Held(nn.Module):
    def __init__(self, denoiser: Denoiser, space: Any) -> None:
        super().__init__()
        self.denoiser, self.space = denoiser, space

    def forward(self, x: Tensor, z: Tensor, t: Tensor, target: Tensor) -> Tensor:
        return denoising_error(self.denoiser, x, Draw(t, z), target=target, space=self.space)[0]


@pytest.mark.parametrize("mask", ["one for all", "one a sample"])
def test_pinned_entries_are_clean_and_have_no_error(mask: str) -> None:
    path = VariancePreserving()
    denoiser, spy = spy_denoiser(path, "clean", pinned="clean")
    x, z, t = random(4, 5, 2), random(4, 5, 2, seed=2), some_times(path, 4)
    known = torch.zeros(5, 2, dtype=torch.bool)
    known[0], known[3, 1] = True, True
    if mask == "one a sample":
        known = known.expand(4, 5, 2).clone()
        known[2, 4] = True
    error, estimate = asked(denoiser, x, Draw(t, z), known=known)
    pinned = known.expand(4, 5, 2)
    heard = spy.heard[0]
    assert torch.equal(heard[pinned], x[pinned])
    torch.testing.assert_close(heard[~pinned], path.perturb(x, t, z)[~pinned])
    assert bool((error[pinned] == 0).all())
    torch.testing.assert_close(error[~pinned], (estimate.x - x)[~pinned] ** 2)
    L = level_error(error, t, known)
    for i in range(4):
        torch.testing.assert_close(L[i], error[i][~pinned[i]].mean())


def test_a_pinned_entry_sends_no_gradient() -> None:
    denoiser, _ = spy_denoiser(Trig(0.5), "trig", pinned="clean")
    x, z, t = random(4, 3), random(4, 3, seed=2), some_times(Trig(0.5), 4)
    known = torch.tensor([True, False, False])
    target = x.clone().requires_grad_()
    error, _ = denoising_error(denoiser, x, Draw(t, z), target=target, known=known)
    (gradient,) = torch.autograd.grad(error.sum(), target)
    assert bool((gradient[:, 0] == 0).all())
    assert bool((gradient[:, 1:] != 0).all())


def test_a_sample_that_is_pinned_throughout_has_error_zero() -> None:
    error, t = random(2, 3) ** 2, torch.ones(2, dtype=F64)
    known = torch.tensor([[True] * 3, [False] * 3])
    L = level_error(error.masked_fill(known, 0.0), t, known)
    assert L[0] == 0
    torch.testing.assert_close(L[1], error[1].mean())


def test_pinned_entries_need_a_denoiser_that_is_trained_so() -> None:
    denoiser, _ = spy_denoiser(Trig(0.5))
    draw = Draw(some_times(Trig(0.5), 2), random(2, 3))
    with pytest.raises(ValueError, match='need a denoiser made with pinned="clean"'):
        denoising_error(denoiser, random(2, 3), draw, known=torch.tensor([True, False, False]))


class TwoFields(nn.Module):
    def forward(self, x: dict[str, Tensor], told: Tensor) -> dict[str, Tensor]:
        return {"a": x["a"] * 0.5, "b": x["b"] * 0.25}


@pytest.mark.parametrize("space", ["clean", "eps"])
def test_states_may_be_dictionaries(space: Any) -> None:
    """Each entry counts alike, in whichever field it stands."""
    path = VariancePreserving()
    denoiser = Denoiser(TwoFields(), path, "clean", pinned="clean")
    x, z = ({"a": random(4, 3, seed=s), "b": random(4, 2, 2, seed=s + 1)} for s in (0, 10))
    known = {"a": torch.tensor([True, False, False]), "b": torch.zeros(2, 2, dtype=torch.bool)}
    t = some_times(path, 4)
    error, estimate = asked(denoiser, x, Draw(t, z), known=known, space=space)
    factor = {"clean": torch.ones_like(t), "eps": path.log_snr(t).exp()}[space]
    want_a = factor[:, None] * ((estimate.x["a"] - x["a"]) ** 2 * torch.tensor([0, 1, 1]))
    want_b = factor[:, None, None] * (estimate.x["b"] - x["b"]) ** 2
    torch.testing.assert_close(error["a"], want_a)
    torch.testing.assert_close(error["b"], want_b)
    torch.testing.assert_close(level_error(error, t, known), (want_a.sum(1) + want_b.sum((1, 2))) / 6)
    torch.testing.assert_close(level_error(error, t), (want_a.sum(1) + want_b.sum((1, 2))) / 7)


def test_single_precision_states_keep_their_type_under_double_levels() -> None:
    denoiser = spy_denoiser(Trig(0.5), "trig")[0].float()
    x, z, t = random(4, 3).float(), random(4, 3, seed=2).float(), some_times(Trig(0.5), 4)
    error, _ = denoising_error(denoiser, x, Draw(t, z), space="native")
    assert error.dtype == level_error(error, t).dtype == torch.float32


def test_a_space_that_is_none_is_refused() -> None:
    denoiser, _ = spy_denoiser(Trig(0.5))
    draw = Draw(some_times(Trig(0.5), 2), random(2, 3))
    mixture = GaussianMixture([1.0], torch.zeros(1, 3), [1.0])
    with pytest.raises(ValueError, match='space="native" is of a network'):
        denoising_error(mixture.denoiser(Trig(0.5)), random(2, 3), draw, space="native")
    with pytest.raises(Exception, match="space"):
        denoising_error(denoiser, random(2, 3), draw, space="noise")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="time 2 lies outside the path"):
        denoising_error(denoiser, random(2, 3), Draw(torch.full((2,), 2.0, dtype=F64), draw.z))
