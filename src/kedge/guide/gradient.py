"""Guidance by the gradient of a likelihood: of a classifier, a reward, a value, a measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from kedge.denoise import Estimate, Estimator
from kedge.elementary import Level, ratio
from kedge.guide.guide import Guide
from kedge.paths.gaussian import GaussianPath, affine, scaled
from kedge.tree import Tree, first_leaf, leaves, tree_map

Through = Literal["state", "estimate", "clean"]
"""What the likelihood is a function of: the noised state and its level; the clean estimate, and by it the state; or the
clean estimate, whose dependence on the state is taken for that of unit normal data."""

Onto = Literal["score", "eps"]
"""Which quantity the gradient is added to."""


@dataclass(frozen=True)
class Gradient(Guide):
    """`score' = score + w g` with `g = grad log p(y | x_t)`; in the clean estimate, `x' = x_hat + w sigma^2 / alpha g`.

    Through the state: Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis", NeurIPS 2021, section 4;
    exact where the likelihood is. Through the estimate: Chung et al., "Diffusion posterior sampling for general noisy
    inverse problems", ICLR 2023, theorem 1: `p(y | x_t)` is taken for `p(y | x_hat(x_t))`; exact for a Gaussian and a
    linear log-likelihood. At the clean estimate: the same with `J = alpha / (alpha^2 + sigma^2)`, the Jacobian of the
    denoiser of `N(0, 1)`, in place of the network's, so that the likelihood alone is differentiated (as in He et al.,
    "Manifold preserving guided diffusion", ICLR 2024, with a factor of their own).

    Onto eps: `eps' = eps - w g`, which is `x' = x_hat + w sigma / alpha g`: against the score, the likelihood counts
    more the less noise there is, and what is sampled is sharper than `p(x) p(y | x)^w`.

    Args:
        log_likelihood: `f(x_t, t)` with `through="state"`, `f(x_hat)` otherwise. It returns one number
            for each sample, `[B]`; a constant added to it does not matter.
        weight: w. 0 changes nothing and asks for no gradient.
        through: what the likelihood is a function of. The gradient of `"estimate"` goes through the denoiser: at high
            noise it is the Jacobian of a small network times sigma^2 / alpha, and can push the wrong way. Begin lower
            (`scale_max` of the grid), or weigh less. `"clean"` is for data of about unit variance; it needs no second
            pass through the network.
        onto: what the gradient is added to.
    """

    log_likelihood: Callable[..., Tensor]
    weight: float | int = 1.0
    through: Through = "state"
    onto: Onto = "score"

    def __post_init__(self) -> None:
        for name, value, options in (("through", self.through, Through), ("onto", self.onto, Onto)):
            if value not in get_args(options):
                raise ValueError(f"unknown {name}={value!r}: one of {', '.join(get_args(options))}")

    def __call__(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
        """Switches gradients on by itself, and leaves none behind where the caller has them off."""
        if self.weight == 0:
            return inner.estimate(x_t, t, cond)
        estimate, shift = self.pull(inner, x_t, t, cond)
        return Estimate(affine(1.0, estimate.x, 1.0, shift), estimate.extra)

    def pull(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> tuple[Estimate, Tree]:
        """The estimate as it was, and what is added to it."""
        through = {"state": self._through_state, "estimate": self._through_estimate, "clean": self._at_clean}
        estimate, gradient = through[self.through](inner, x_t, t, cond)
        reach = self._reach(inner.path, t)
        return estimate, tree_map(lambda g: scaled(self.weight * reach, g), gradient)

    def _reach(self, path: GaussianPath, t: Level) -> Any:
        """How far the clean estimate moves for a gradient of 1: `sigma^2 / alpha`, or `sigma / alpha`; times J."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        if self.through == "clean":
            return (sigma if self.onto == "eps" else sigma * sigma) / (alpha * alpha + sigma * sigma)
        return ratio(sigma, alpha) if self.onto == "eps" else path.to_clean("score", t)[1]

    def _through_state(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> tuple[Estimate, Tree]:
        with torch.enable_grad():
            at: Tree = tree_map(_variable, x_t)
            value = self.log_likelihood(at, t)
        return inner.estimate(x_t, t, cond), _gradient(value, at)

    def _at_clean(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> tuple[Estimate, Tree]:
        estimate = inner.estimate(x_t, t, cond)
        with torch.enable_grad():
            at: Tree = tree_map(_variable, estimate.x)
            value = self.log_likelihood(at)
        return estimate, _gradient(value, at)

    def _through_estimate(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> tuple[Estimate, Tree]:
        with torch.enable_grad():
            at: Tree = tree_map(_variable, x_t)
            estimate = inner.estimate(at, t, cond)
            value = self.log_likelihood(estimate.x)
        gradient = _gradient(value, at)
        return estimate if torch.is_grad_enabled() else _detached(estimate), gradient


def _variable(x: Tensor) -> Tensor:
    """x as something to differentiate by: itself where it already is, else a leaf of our own."""
    return x if x.requires_grad else x.detach().requires_grad_()


def _gradient(value: Tensor, at: Tree) -> Tree:
    """The gradient of each sample's value; differentiable again where the caller follows gradients."""
    batch = first_leaf(at).shape[0]
    if value.shape != (batch,):
        raise ValueError(f"log_likelihood must return one number a sample, [{batch}]; got shape {list(value.shape)}")
    if not value.requires_grad:
        raise ValueError("log_likelihood returned a value without a gradient: compute it from its argument, in torch")
    followed = torch.is_grad_enabled()
    one = torch.ones_like(value)  # the value of a sample is a function of that sample alone
    parts = torch.autograd.grad(value, leaves(at), one, create_graph=followed, materialize_grads=True)
    return parts[0] if isinstance(at, Tensor) else dict(zip(at, parts, strict=True))


def _detached(estimate: Estimate) -> Estimate:
    extra = {name: value.detach() if isinstance(value, Tensor) else value for name, value in estimate.extra.items()}
    return Estimate(tree_map(Tensor.detach, estimate.x), extra)
