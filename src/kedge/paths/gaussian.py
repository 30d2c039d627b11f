"""The Gaussian path: `x_t = alpha(t) x + sigma(t) z`, with z standard normal, time 0 the data, growing to noise.

Everything but `alpha`, `sigma`, their derivatives and `time_of` follows from them and is written here, once.
Throughout, `x_hat` is the expected clean x given x_t, "noise scale" is sigma / alpha, and
`log_snr = log(alpha^2 / sigma^2)`. A time is a float (one level for all) or a tensor that is aligned with x from the
batch axis on; a tensor of levels gives tensors of coefficients in its own dtype.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast, final, get_args

import torch
from torch import Tensor

from kedge import elementary as el
from kedge.capture import unseen
from kedge.elementary import Level
from kedge.kernels import Correlated, Gaussian, Kernel, Point
from kedge.matrix import Matrix
from kedge.noise import Noise, Seeds, normal_like
from kedge.tree import Tree, first_leaf, lead, tree_map

Quantity = Literal["clean", "eps", "velocity", "score"]
"""The four faces of one estimate: x, z, dx_t/dt and the gradient of log p(x_t)."""


_ZERO = torch.zeros(())


def scaled(coefficient: Level, x: Tensor) -> Tensor:
    """`coefficient x`, the coefficient aligned from the batch axis on."""
    if isinstance(coefficient, Tensor):
        return lead(coefficient, x) * x
    # torch multiplies by a plain number in 2 us and adds a multiple in 1: at batch 1 this is a fifth of a walk's cost.
    return torch.add(_ZERO, x, alpha=coefficient)


def affine(a: Level | Matrix, x: Tree, b: Level | Matrix, y: Tree) -> Any:
    """`a x + b y`, leaf by leaf, unless one of them is a matrix."""
    if isinstance(a, Matrix) or isinstance(b, Matrix):
        return tree_map(torch.add, times(a, x), times(b, y))
    if (
        isinstance(x, Tensor) and isinstance(y, Tensor) and not isinstance(b, Tensor)
    ):  # one level: the hot path of a walk
        return scaled(a, x).add(y, alpha=b)
    return tree_map(lambda x, y: scaled(a, x) + scaled(b, y), x, y)


def times(coefficient: Level | Matrix, x: Tree) -> Any:
    """`coefficient x`, of a number, of levels or of a matrix."""
    return coefficient(x) if isinstance(coefficient, Matrix) else tree_map(lambda leaf: scaled(coefficient, leaf), x)


def combine(*terms: tuple[Level | Matrix, Tree]) -> Any:
    """The sum of `coefficient x` over the terms, leaf by leaf, unless one of them is a matrix."""
    if any(isinstance(a, Matrix) for a, _ in terms):
        return tree_map(lambda *leaves: sum(leaves[1:], leaves[0]), *(times(a, x) for a, x in terms))
    if isinstance(terms[0][1], dict):
        return {name: combine(*((b, y[name]) for b, y in cast(Any, terms))) for name in terms[0][1]}
    (a, x), *others = cast(Any, terms)
    total = scaled(a, x)
    for b, y in others:
        total = total + scaled(b, y) if isinstance(b, Tensor) else total.add(y, alpha=b)
    return total


class GaussianPath(ABC):
    """An elementwise Gaussian path. A new one is a frozen dataclass with the five abstract functions and two times."""

    t_min: float
    t_max: float

    @abstractmethod
    def alpha(self, t: Level) -> Any:
        """Coefficient of the data; 1 at time 0."""

    @abstractmethod
    def sigma(self, t: Level) -> Any:
        """Coefficient of standard normal noise; 0 at time 0."""

    @abstractmethod
    def d_alpha(self, t: Level) -> Any:
        """Derivative of `alpha`."""

    @abstractmethod
    def d_sigma(self, t: Level) -> Any:
        """Derivative of `sigma`."""

    @abstractmethod
    def time_of(self, log_snr: Level) -> Any:
        """The time at which the log-SNR has this value."""

    def log_snr(self, t: Level) -> Any:
        """`log(alpha^2 / sigma^2)`: infinite at time 0. A path may say it in a form of its own that rounds less."""
        return 2 * (el.log(self.alpha(t)) - el.log(self.sigma(t)))

    def noise_scale(self, t: Level) -> Any:
        """`sigma / alpha`."""
        return el.ratio(self.sigma(t), self.alpha(t))

    @final
    def time_at(self, noise_scale: Level) -> Any:
        """The time at which `sigma / alpha` has this value."""
        return self.time_of(-2 * el.log(noise_scale))

    @final
    def prior(
        self,
        shape: Sequence[int] | Mapping[str, Sequence[int]],
        seeds: Noise | Seeds = None,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Any:
        """The noise end, `N(0, sigma(t_max)^2)`, of a shape or of a shape for each field, from the seeds that a walk
        takes: one number for the call or one for each sample. None draws from torch's generator.
        """

        def empty(shape: Sequence[int]) -> Tensor:
            return torch.empty(tuple(shape), dtype=dtype, device=device)

        like = {name: empty(s) for name, s in shape.items()} if isinstance(shape, Mapping) else empty(shape)
        if seeds is None:
            z = tree_map(torch.randn_like, like)
        else:
            noise = seeds if isinstance(seeds, Noise) else Noise.of(seeds, first_leaf(like).shape[0], device)
            z = normal_like(like, noise, step=-1)
        return self._ended(z)

    def _ended(self, z: Tree) -> Any:
        """What standard normal noise is at the noise end."""
        return tree_map(lambda z: z * self.sigma(self.t_max), z)

    @final
    def noise(self, x: Tree, noise: Noise, step: int, slot: int = 0) -> Tree:
        """z for `perturb`."""
        return normal_like(x, noise, step, slot)

    def perturb(self, x: Tree, t: Level, z: Tree | None = None) -> Any:
        """`x_t = alpha x + sigma z`; z from torch's generator where none is given."""
        self.check(t)
        return affine(self.alpha(t), x, self.sigma(t), tree_map(torch.randn_like, x) if z is None else z)

    @final
    def check(self, t: Level) -> None:
        """Raises where a time lies outside the path."""
        if isinstance(t, Tensor):
            if unseen() or bool(((t >= 0) & (t <= self.t_max)).all()):
                return
            t = next(v for v in t.flatten().tolist() if not 0 <= v <= self.t_max)
        if not 0 <= t <= self.t_max:
            raise ValueError(f"time {t:.6g} lies outside the path {self}: times run from 0 (data) to {self.t_max:.6g}")

    # Conversions: every quantity is affine in the clean estimate.

    def to_clean(self, have: Quantity, t: Level) -> tuple[Any, Any]:
        """`(c, d)` with `x_hat = c x_t + d value`."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        if have == "clean":
            return 0.0, 1.0
        if have == "eps":
            return el.ratio(1.0, alpha), -el.ratio(sigma, alpha)
        if have == "score":
            return el.ratio(1.0, alpha), el.ratio(sigma * sigma, alpha)
        if have == "velocity":
            d_alpha, d_sigma = self.d_alpha(t), self.d_sigma(t)
            wronskian = sigma * d_alpha - d_sigma * alpha
            clean = sigma == 0  # where the slope of sigma may be infinite: x_hat = x_t / alpha
            c, d = el.ratio(-d_sigma, wronskian), el.ratio(sigma, wronskian)
            return el.where(clean, el.ratio(1.0, alpha), c), el.where(clean, 0.0, d)
        raise ValueError(f"unknown quantity {have!r}: one of {', '.join(get_args(Quantity))}")

    def from_clean(self, want: Quantity, t: Level) -> tuple[Any, Any]:
        """`(a, b)` with `value = a x_t + b x_hat`; `z_hat = (x_t - alpha x_hat) / sigma` carries all of them."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        if want == "clean":
            return 0.0, 1.0
        if want == "eps":
            return el.ratio(1.0, sigma), -el.ratio(alpha, sigma)
        if want == "score":
            return -el.ratio(1.0, sigma * sigma), el.ratio(alpha, sigma * sigma)
        if want == "velocity":
            slope = el.ratio(self.d_sigma(t), sigma)
            return slope, self.d_alpha(t) - slope * alpha
        raise ValueError(f"unknown quantity {want!r}: one of {', '.join(get_args(Quantity))}")

    @final
    def convert(self, value: Tree, x_t: Tree, t: Level, have: Quantity, want: Quantity) -> Any:
        """The same estimate in another quantity."""
        if have == want:
            return value
        x_hat = value if have == "clean" else affine(*_pair(self.to_clean(have, t), x_t, value))
        return x_hat if want == "clean" else affine(*_pair(self.from_clean(want, t), x_t, x_hat))

    def information(self, t: Level) -> Any:
        """What x_t tells of x, `alpha^2 / sigma^2`: the precision of x given x_t alone."""
        return el.exp(self.log_snr(t))

    @final
    def drift(self, x_t: Tree, x_hat: Tree, t: Level) -> Any:
        """The velocity dx_t/dt of the probability flow."""
        return self.convert(x_hat, x_t, t, "clean", "velocity")

    # Transitions.

    def bridge(self, t: Level, s: Level, eta: float = 1.0) -> tuple[Any, Any, Any]:
        """`(a, b, std)` of `x_s = a x_t + b x_hat + std z` for s <= t: DDIM's family, where `eta = 1` is the posterior
        `q(x_s | x_t, x = x_hat)` and `eta = 0` the probability flow. Entries with s == t stay as they are.

            std = eta sigma_s sqrt(1 - SNR_t / SNR_s)
            a = sqrt(sigma_s^2 - std^2) / sigma_t
            b = alpha_s - a alpha_t
        """
        sigma_s, still = self.sigma(s), s == t
        kept, fresh = 1.0, 0.0  # shares of the variance sigma_s^2: of the old noise, of new noise
        if eta:
            fall = self._fall(t, s)
            kept, fresh = 1 - eta**2 + eta**2 * el.exp(fall), eta**2 * el.clip(-el.expm1(fall), 0.0, 1.0)
        a = el.ratio(sigma_s * el.sqrt(kept), self.sigma(t))
        b = self.alpha(s) - a * self.alpha(t)
        return el.where(still, 1.0, a), el.where(still, 0.0, b), el.where(still, 0.0, sigma_s * el.sqrt(fresh))

    def _fall(self, t: Level, s: Level) -> Any:
        """`log(SNR_t / SNR_s)` for s <= t. -1400 stands for an infinite fall, -1 for none (which no caller uses): their
        derivatives stay finite.
        """
        return el.where(s == t, -1.0, el.clip(self.log_snr(t) - self.log_snr(s), -1400.0, math.inf))

    @final
    def down(self, x_t: Tree, x_hat: Tree, t: Level, s: Level) -> Kernel:
        """`q(x_s | x_t, x = x_hat)`, the ancestral step."""
        return self.posterior(t, s)(x_t, x_hat)

    @final
    def posterior(self, t: Level, s: Level) -> Callable[[Tree, Tree], Kernel]:
        """`down` as a function of x_t and x_hat: a walk computes the coefficients of its levels once."""
        a, b, std = self.bridge(t, s)
        return lambda x_t, x_hat: transition(affine(a, x_t, b, x_hat), std)

    def up(self, x_s: Tree, s: Level, t: Level) -> Kernel:
        """`q(x_t | x_s) = N(r x_s, sigma_t^2 (1 - SNR_t / SNR_s))` with `r = alpha_t / alpha_s`, for t >= s."""
        r = el.ratio(self.alpha(t), self.alpha(s))
        std = self.sigma(t) * el.sqrt(el.clip(-el.expm1(self._fall(t, s)), 0.0, 1.0))
        return transition(tree_map(lambda x: scaled(r, x), x_s), el.where(s == t, 0.0, std))

    @final
    def error(self, x_hat: Tree, x: Tree) -> Any:
        """Squared error, per entry."""
        return tree_map(lambda a, b: (a - b) ** 2, x_hat, x)


def transition(mean: Tree, std: Level | Matrix) -> Kernel:
    """A Gaussian kernel, or a point where nothing is random."""
    if isinstance(std, Matrix):
        return Correlated(mean, std)
    return Gaussian(mean, std) if isinstance(std, Tensor) or std > 0 else Point(mean)


def _pair(coefficients: tuple[Any, Any], x: Tree, y: Tree) -> tuple[Any, Tree, Any, Tree]:
    return coefficients[0], x, coefficients[1], y
