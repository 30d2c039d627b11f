"""Guidance by gradients, where the guided answer is known exactly."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from every_path import between, every_path
from kedge import grids, sample, solvers
from kedge.denoise import Denoiser, Estimate, Wrapped
from kedge.elementary import Level
from kedge.exact import GaussianMixture, Quadratic
from kedge.guide import Gradient, Guide
from kedge.paths import GaussianPath, Rectified, Trig, VarianceExploding
from kedge.tree import lead

EPS = torch.finfo(torch.float64).eps


def mixture() -> GaussianMixture:
    means = torch.tensor([[1.0, -0.5], [-0.8, 0.3]], dtype=torch.float64)
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.05, 0.0], [0.0, 0.4]]], dtype=torch.float64)
    return GaussianMixture([0.3, 0.7], means, covariances)


def reward() -> Quadratic:
    return Quadratic(torch.tensor([[0.9, 0.4], [0.4, -0.6]]), torch.tensor([1.5, -0.7]))


def noised_reward(m: GaussianMixture, r: Quadratic, path: GaussianPath) -> Callable[[Tensor, float], Tensor]:
    """`log E[e^r | x_t] = log p_tilted(x_t) - log p(x_t) + log Z`."""
    tilted = m.tilt(r)

    def log_likelihood(x_t: Tensor, t: float) -> Tensor:
        return tilted.marginal(path, t).log_prob(x_t) - m.marginal(path, t).log_prob(x_t) + m.log_partition(r)

    return log_likelihood


def state(batch: int = 6) -> Tensor:
    return torch.randn(batch, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@every_path
def test_the_exact_likelihood_makes_the_tilted_denoiser(path: GaussianPath) -> None:
    """To 1e-10, times what multiplying the gradient by sigma^2 / alpha costs at the noise end."""
    m, r = mixture(), reward()
    guided = Gradient(noised_reward(m, r, path)).on(m.denoiser(path))
    tilted = m.tilt(r).denoiser(path)
    for share in (0.1, 0.4, 0.6, 0.8):
        t = between(path, share)
        x_t = path.perturb(m.sample(6), t, state())
        reach = path.sigma(t) ** 2 / path.alpha(t)
        allowed = 1e-10 * max(1.0, reach)
        torch.testing.assert_close(guided(x_t, t), tilted(x_t, t), rtol=0, atol=allowed)


def test_guided_walks_have_the_tilted_law() -> None:
    """Walks of both denoisers from the same start with the same noise end at the same place."""
    m, r, path = mixture(), reward(), Trig(0.5)
    guided = Gradient(noised_reward(m, r, path)).on(m.denoiser(path))
    start = path.prior((20, 2), dtype=torch.float64)
    walk: dict[str, Any] = {"grid": grids.LogSNR(8), "solver": solvers.DDPM(), "seeds": 0}
    x = sample(guided, start, **walk)
    torch.testing.assert_close(x, sample(m.tilt(r).denoiser(path), start, **walk), rtol=1e-7, atol=1e-7)
    assert not x.requires_grad


@every_path
@pytest.mark.parametrize("weight", [-0.5, 1.0, 2.0])
def test_through_the_estimate_a_linear_reward_on_a_gaussian_is_exact(path: GaussianPath, weight: float) -> None:
    """`x_hat` is linear in x_t with slope `Cov(x | x_t) alpha / sigma^2`: the guide adds `w Cov(x | x_t) b`, as the
    tilt by `w b . x` does.
    """
    covariance = torch.tensor([[[0.3, 0.1], [0.1, 0.2]]], dtype=torch.float64)
    m = GaussianMixture([1.0], torch.tensor([[1.0, -0.5]]), covariance)
    b = torch.tensor([1.5, -0.7], dtype=torch.float64)
    guided = Gradient(lambda x: x @ b, weight, through="estimate").on(m.denoiser(path))
    tilted = m.tilt(Quadratic(torch.zeros(2, 2), weight * b)).denoiser(path)
    for share in (0.05, 0.4, 0.8, 1.0):
        t = between(path, share)
        x_t = path.perturb(m.sample(6), t, state())
        torch.testing.assert_close(guided(x_t, t), tilted(x_t, t), rtol=1e-10, atol=1e-10)


@every_path
def test_it_adds_to_the_score(path: GaussianPath) -> None:
    """`score' = score + w grad`, for any likelihood and any weight."""
    m, t, x_t = mixture(), between(path, 0.5), state()
    guided = Gradient(lambda x, t: -(x**4).sum(1) + t, 0.7).on(m.denoiser(path))
    score, changed = (path.convert(d(x_t, t), x_t, t, "clean", "score") for d in (m.denoiser(path), guided))
    torch.testing.assert_close(changed, score - 0.7 * 4 * x_t**3, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("through", ["state", "estimate"])
def test_levels_of_samples(through: Any) -> None:
    m, path, x_t = mixture(), Rectified(), state(4)
    likelihood = (lambda x, t: -(x**2).sum(1) * t) if through == "state" else (lambda x: -(x**2).sum(1))
    guided = Gradient(likelihood, through=through).on(m.denoiser(path))
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    alone = torch.cat([guided(x_t[i : i + 1], float(t[i])) for i in range(4)])
    torch.testing.assert_close(guided(x_t, t), alone, rtol=1e-12, atol=1e-12)
    clean = guided(x_t, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(clean, m.denoiser(path)(x_t, 0.0), rtol=1e-12, atol=1e-12)


@every_path
@pytest.mark.parametrize("through", ["state", "estimate"])
def test_weight_zero_changes_nothing_and_asks_for_no_gradient(path: GaussianPath, through: Any) -> None:
    m, x_t, t = mixture(), state(), between(path, 0.5)

    def refused(*args: Any) -> Tensor:
        raise AssertionError("asked")

    guided = Gradient(refused, 0.0, through).on(m.denoiser(path))
    assert torch.equal(guided(x_t, t), m.denoiser(path)(x_t, t))


class Net(nn.Module):
    """Depends on everything, and says something beside."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, dtype=torch.float64)

    def forward(self, x: Tensor, told: Tensor) -> tuple[Tensor, dict[str, Any]]:
        out = torch.tanh(self.linear(x)) + lead(told, x)
        return out, {"value": out.sum(1), "name": "net"}


@pytest.mark.parametrize("through", ["state", "estimate"])
@pytest.mark.parametrize("off", [torch.no_grad, torch.enable_grad])
def test_gradients_are_left_behind_only_where_they_are_followed(through: Any, off: Callable[[], Any]) -> None:
    denoiser = Denoiser(Net(), Trig(), "trig")
    likelihood = (lambda x, t: -(x**2).sum(1)) if through == "state" else (lambda x: -(x**2).sum(1))
    guided, x_t = Gradient(likelihood, through=through).on(denoiser), state()
    with off():
        followed = torch.is_grad_enabled()
        estimate = guided.estimate(x_t, 0.5)
        assert torch.is_grad_enabled() == followed
    assert isinstance(estimate.x, Tensor)
    assert estimate.x.requires_grad == followed
    assert estimate.extra["value"].requires_grad == followed
    assert estimate.extra["name"] == "net"
    assert not x_t.requires_grad
    assert all(parameter.grad is None for parameter in denoiser.parameters())


@pytest.mark.parametrize("through", ["state", "estimate"])
def test_the_guided_estimate_is_differentiable_where_gradients_are_followed(through: Any) -> None:
    """By the state and by the network's weights, against finite differences."""
    torch.manual_seed(0)
    net = Net()
    denoiser = Denoiser(net, Trig(), "trig")
    likelihood = (lambda x, t: -(x**4).sum(1)) if through == "state" else (lambda x: -(x**4).sum(1))
    guided = Gradient(likelihood, 0.3, through=through).on(denoiser)

    def by_both(x_t: Tensor, weight: Tensor) -> Tensor:
        class With(nn.Module):
            def forward(self, x: Tensor, told: Tensor) -> Any:
                return torch.func.functional_call(net, {"linear.weight": weight}, (x, told))

        return Gradient(likelihood, 0.3, through=through).on(Denoiser(With(), Trig(), "trig"))(x_t, 0.5)

    x_t, weight = state(2).requires_grad_(), net.linear.weight.detach().clone().requires_grad_()
    torch.testing.assert_close(by_both(x_t, weight), guided(x_t, 0.5))
    assert torch.autograd.gradcheck(by_both, (x_t, weight))


@pytest.mark.parametrize("through", ["state", "estimate"])
def test_trees(through: Any) -> None:
    """Two fields, of which the likelihood looks at one; the other stays as it was."""

    class Fields:
        path = VarianceExploding()
        pinned = "noised"

        def __call__(self, x_t: Any, t: Level, cond: Any = None) -> Any:
            return {name: 0.5 * leaf for name, leaf in x_t.items()}

    x_t = {"a": state(), "b": state()[:, :1]}
    likelihood = (lambda x, t: -(x["a"] ** 2).sum(1)) if through == "state" else (lambda x: -(x["a"] ** 2).sum(1))
    x = Gradient(likelihood, 0.1, through).on(Fields())(x_t, 2.0)
    slope = -2 * x_t["a"] if through == "state" else -2 * 0.25 * x_t["a"]
    torch.testing.assert_close(x["a"], 0.5 * x_t["a"] + 0.1 * 4.0 * slope, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(x["b"], 0.5 * x_t["b"], rtol=0, atol=0)


def test_the_network_is_asked_once() -> None:
    asked: list[Any] = []

    class Counting:
        path = Trig()
        pinned = "noised"

        def __call__(self, x_t: Any, t: Level, cond: Any = None) -> Any:
            asked.append(cond)
            return 0.5 * x_t

    for through, likelihood in (("state", lambda x, t: x.sum(1)), ("estimate", lambda x: x.sum(1))):
        Gradient(likelihood, through=through).on(Counting())(state(), 0.5, "cond")  # pyright: ignore
    assert asked == ["cond", "cond"]


@pytest.mark.parametrize("through", ["state", "estimate"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda x: x.sum(), r"one number a sample, \[6\]; got shape \[\]"),
        (lambda x: x, r"one number a sample, \[6\]; got shape \[6, 2\]"),
        (lambda x: x.detach().sum(1), "without a gradient: compute it from its argument"),
    ],
)
def test_likelihoods_that_make_no_sense(through: Any, value: Callable[[Tensor], Tensor], expected: str) -> None:
    likelihood = (lambda x, t: value(x)) if through == "state" else value
    with pytest.raises(ValueError, match=expected) as raised:
        Gradient(likelihood, through=through).on(mixture().denoiser(Trig()))(state(), 0.5)
    assert "\n" not in str(raised.value)
    assert torch.is_grad_enabled()


def test_unknown_ways() -> None:
    guide = object.__new__(Gradient)  # as made without run-time checks of the annotations
    object.__setattr__(guide, "through", "net")
    with pytest.raises(ValueError, match="unknown through='net': one of state, estimate"):
        guide.__post_init__()


def test_guides_are_values() -> None:
    guide = Gradient(len, 2.0, "estimate")  # pyright: ignore
    assert isinstance(guide, Guide)
    assert guide == pickle.loads(pickle.dumps(guide)) == Gradient(len, 2.0, "estimate")  # pyright: ignore
    assert isinstance(guide.on(mixture().denoiser(Trig())), Wrapped)
    assert isinstance(Gradient(len, 0.0).on(mixture().denoiser(Trig())).estimate(state(), 0.5), Estimate)  # pyright: ignore
