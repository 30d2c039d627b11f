"""Transition kernels against torch's distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical as Reference
from torch.distributions import Normal, kl_divergence

from kedge.elementary import Level
from kedge.kernels import Categorical, Gaussian, NoDensityError, Point
from kedge.noise import Noise, normal_like
from kedge.tree import lead, sum_event

B, T, D = 4, 3, 2
STDS: dict[str, Level] = {
    "float": 0.7,
    "scalar": torch.tensor(0.7, dtype=torch.float64),
    "one-row": torch.tensor([0.7], dtype=torch.float64),
    "sample": torch.tensor([0.1, 0.7, 2.0, 0.5], dtype=torch.float64),
    "row": torch.tensor([[0.1, 0.7, 2.0]], dtype=torch.float64),
    "token": torch.linspace(0.1, 3, B * T, dtype=torch.float64).view(B, T),
    "entry": torch.linspace(0.1, 3, B * T * D, dtype=torch.float64).view(B, T, D),
}
every_std = pytest.mark.parametrize("std", STDS.values(), ids=STDS)


def values(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def full(std: Level) -> Tensor:
    std = torch.as_tensor(std, dtype=torch.float64)
    return lead(std, values(0)).expand(B, T, D)


@every_std
def test_log_prob_is_that_of_a_normal(std: Level) -> None:
    mean, x = values(0), values(1)
    log_prob = Gaussian(mean, std).log_prob(x)
    torch.testing.assert_close(log_prob, Normal(mean, full(std)).log_prob(x), rtol=1e-13, atol=1e-13)


@every_std
@pytest.mark.parametrize("other", STDS.values(), ids=STDS)
def test_kl_is_that_of_two_normals(std: Level, other: Level) -> None:
    mean, mean_2 = values(0), values(1)
    kl = Gaussian(mean, std).kl(Gaussian(mean_2, other))
    exact = kl_divergence(Normal(mean, full(std)), Normal(mean_2, full(other)))
    torch.testing.assert_close(kl, exact, rtol=1e-12, atol=1e-12)


@every_std
def test_a_draw_is_mean_plus_std_times_the_samples_own_noise(std: Level) -> None:
    mean, noise = values(0), Noise.of(3, B)
    z = normal_like(mean, noise, 5)
    assert isinstance(z, Tensor)
    torch.testing.assert_close(Gaussian(mean, std).draw(noise, 5), mean + full(std) * z, rtol=1e-15, atol=0)


@every_std
def test_variance_and_take(std: Level) -> None:
    kernel, index = Gaussian(values(0), std), torch.tensor([2, 0, 0, 3, 1])
    torch.testing.assert_close(kernel.variance, full(std) ** 2, rtol=1e-15, atol=0)
    taken = kernel.take(index)
    assert torch.equal(taken.mean, values(0)[index])  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(taken.variance, full(std)[index] ** 2, rtol=1e-15, atol=0)
    x = values(1)[index]
    torch.testing.assert_close(taken.log_prob(x), kernel.log_prob(values(1))[index], rtol=1e-15, atol=0)  # pyright: ignore


def test_an_entry_that_stands_still_counts_for_nothing_and_keeps_gradients_finite() -> None:
    std = full(0.5).clone()
    std[:, 1] = 0
    mean = values(0).requires_grad_()
    other = Gaussian(values(2), full(2.0))
    kernel, x = Gaussian(mean, std), values(1)
    log_prob, kl = kernel.log_prob(x), kernel.kl(other)
    assert isinstance(log_prob, Tensor)
    assert isinstance(kl, Tensor)
    assert (log_prob[:, 1] == 0).all()
    assert (kl[:, 1] == 0).all()
    still, moving = torch.tensor([1]), torch.tensor([0, 2])
    torch.testing.assert_close(log_prob[:, moving], Normal(mean, 0.5).log_prob(x)[:, moving], rtol=1e-13, atol=1e-13)
    (log_prob.sum() + kl.sum()).backward()
    assert mean.grad is not None
    assert mean.grad.isfinite().all()
    assert (mean.grad[:, still] == 0).all()
    assert (mean.grad[:, moving] != 0).all()
    assert torch.equal(kernel.draw(Noise.of(0, B), 0)[:, 1], mean[:, 1])  # pyright: ignore


def test_kl_is_infinite_where_only_the_other_stands_still() -> None:
    mean = values(0)
    std = full(1.0).clone()
    std[0] = 0
    kl = Gaussian(mean, 1.0).kl(Gaussian(mean, std))
    assert isinstance(kl, Tensor)
    assert (kl[0] == math.inf).all()
    assert (kl[1:] == 0).all()
    both = Gaussian(mean, std).kl(Gaussian(mean, std))
    assert isinstance(both, Tensor)
    assert (both == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_densities_of_half_precision_states_are_computed_in_float32(dtype: torch.dtype) -> None:
    mean, x, std = values(0, dtype), values(1, dtype), torch.full((B,), 0.0123, dtype=torch.float64)
    kernel = Gaussian(mean, std)
    log_prob = kernel.log_prob(x)
    assert isinstance(log_prob, Tensor)
    assert log_prob.dtype == torch.float32
    exact = Normal(mean.double(), 0.0123).log_prob(x.double()).float()
    torch.testing.assert_close(log_prob, exact, rtol=1e-5, atol=1e-5)
    kl = kernel.kl(Gaussian(x, 0.0321))
    exact = kl_divergence(Normal(mean.double(), 0.0123), Normal(x.double(), 0.0321)).float()
    torch.testing.assert_close(kl, exact, rtol=1e-5, atol=1e-5)
    drawn = kernel.draw(Noise.of(0, B), 0)
    assert isinstance(drawn, Tensor)
    assert drawn.dtype == dtype


def test_gradients_reach_mean_and_std_through_the_draw_and_the_density() -> None:
    mean = values(0).requires_grad_()
    std = torch.tensor([0.1, 0.7, 2.0, 0.5], dtype=torch.float64, requires_grad=True)
    kernel, noise = Gaussian(mean, std), Noise.of(0, B)
    drawn, z = kernel.draw(noise, 0), normal_like(mean, noise, 0)
    assert isinstance(drawn, Tensor)
    assert isinstance(z, Tensor)
    of_mean, of_std = torch.autograd.grad(drawn.sum(), [mean, std])
    assert (of_mean == 1).all()
    torch.testing.assert_close(of_std, z.sum((1, 2)), rtol=1e-13, atol=1e-13)
    assert torch.autograd.gradcheck(lambda m, s: sum_event(Gaussian(m, s).log_prob(values(1))), (mean, std))
    assert torch.autograd.gradcheck(lambda m, s: sum_event(Gaussian(m, s).kl(Gaussian(values(1), 0.5))), (mean, std))


def test_trees() -> None:
    mean, x = {"a": values(0), "b": values(1)[:, 0]}, {"a": values(2), "b": values(3)[:, 0]}
    std = torch.tensor([0.1, 0.7, 2.0, 0.5], dtype=torch.float64)
    kernel = Gaussian(mean, std)
    for name in mean:
        alone = Gaussian(mean[name], std)
        assert torch.equal(kernel.log_prob(x)[name], alone.log_prob(x[name]))  # pyright: ignore
        assert torch.equal(kernel.kl(Gaussian(x, 1.0))[name], alone.kl(Gaussian(x[name], 1.0)))  # pyright: ignore
        assert torch.equal(kernel.take(torch.tensor([1])).mean[name], mean[name][1:2])  # pyright: ignore
    drawn = kernel.draw(Noise.of(0, B), 0)
    assert isinstance(drawn, dict)
    assert not torch.isclose((drawn["a"] - mean["a"])[:, 0], drawn["b"] - mean["b"]).any()


def test_a_point_ignores_the_noise_and_has_no_density() -> None:
    point, index = Point(values(0)), torch.tensor([1, 1, 0])
    assert point.draw(Noise.of(0, B), 0) is point.mean
    assert torch.equal(point.take(index).mean, values(0)[index])  # pyright: ignore[reportArgumentType]
    assert torch.equal(point.variance, torch.zeros(B, T, D, dtype=torch.float64))  # pyright: ignore[reportArgumentType]
    with pytest.raises(NoDensityError, match="deterministic and has no density"):
        point.log_prob(values(1))
    with pytest.raises(NoDensityError, match="deterministic and has no divergence"):
        point.kl(Gaussian(values(0), 1.0))
    with pytest.raises(NoDensityError, match="between a Gaussian and a Point"):
        Gaussian(values(0), 1.0).kl(point)


def classes(seed: int) -> Tensor:
    """Logits of five classes, one of which is impossible."""
    logits = 2 * torch.randn(B, T, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits[..., 1] = -math.inf
    return logits


def test_classes_have_the_densities_and_divergences_of_torchs() -> None:
    logits, other = classes(0).requires_grad_(), classes(1)
    kernel, index = Categorical(logits), torch.tensor([2, 0, 0, 3])
    x = kernel.draw(Noise.of(3, B), 0)
    assert isinstance(x, Tensor)
    exact, exact_2 = Reference(logits=logits), Reference(logits=other)
    log_prob, kl = kernel.log_prob(x), kernel.kl(Categorical(other))
    assert isinstance(log_prob, Tensor)
    assert isinstance(kl, Tensor)
    torch.testing.assert_close(log_prob.sum(-1), exact.log_prob(x.argmax(-1)), rtol=1e-12, atol=1e-12)
    assert ((log_prob == 0) == (x == 0)).all()
    torch.testing.assert_close(kl.sum(-1), kl_divergence(exact, exact_2), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kernel.mean, exact.probs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kernel.variance, exact.probs * (1 - exact.probs), rtol=1e-12, atol=1e-12)
    assert torch.equal(kernel.take(index).log_prob(x[index]), log_prob[index])  # pyright: ignore
    (slope,) = torch.autograd.grad(log_prob.sum() + kl.sum(), logits)
    assert slope.isfinite().all()
    assert (slope != 0).any()
    alone = Categorical(other.nan_to_num(neginf=0.0)).kl(kernel)
    assert isinstance(alone, Tensor)
    assert (alone[..., 1] == math.inf).all()
    with pytest.raises(NoDensityError, match="between a Categorical and a Point"):
        kernel.kl(Point(x))


def test_classes_are_drawn_as_often_as_they_are_likely() -> None:
    """Each field with noise of its own; what is impossible, never."""
    N, logits = 20_000, classes(0)[0, 0]
    wide = logits.expand(N, 5).to(torch.float32)
    drawn = Categorical({"a": wide, "b": wide}).draw(Noise.of(3, N), 0)
    assert isinstance(drawn, dict)
    p = logits.softmax(-1)
    for x in drawn.values():
        assert x.dtype == torch.float32
        assert (x.sum(-1) == 1).all()
        assert ((x.double().mean(0) - p).abs() <= 4 * (p * (1 - p) / N).sqrt()).all()
    same = float((drawn["a"] * drawn["b"]).sum(-1).mean())
    assert same == pytest.approx(float((p**2).sum()), abs=4 * (0.25 / N) ** 0.5)
