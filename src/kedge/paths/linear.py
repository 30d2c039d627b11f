"""Paths of matrices: `x_t = M(t) x + L(t) z`, where entries mix, or a state has fields that data have not."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NoReturn, get_args

import torch
from torch import Tensor

from kedge.elementary import Level
from kedge.kernels import Kernel
from kedge.matrix import Matrix
from kedge.paths.gaussian import GaussianPath, Quantity, affine, transition
from kedge.tree import Tree, tree_map

SUBSTEPS = 64
"""Steps of order 4 for each unit of log-SNR by which the flow's own matrix is solved."""


class LinearPath(GaussianPath):
    """`x_t ~ N(M x, C)` with matrices M(t) and C(t) along the last axis of a tensor, or over the fields of a
    dictionary.

    Its flow is `dx/dt = P x_t + Q x_hat`. Given x it must carry the mean, `M' = P M + Q`, so that P tells all of it.
    Its posterior `q(x_s | x_t, x)` has the mean `M_s x + A (x_t - M_t x)` and the covariance `C_s - A C_t A^T`.

    DDPM, DDIM (eta 0 or 1), Euler, Heun and LinearMultistep walk it, at levels that are numbers; solvers that are
    written in alpha and sigma refuse it. `log_snr` is the one number that grids are laid in and that networks hear.
    """

    @abstractmethod
    def M(self, t: Level) -> Tensor:
        """`[*t, n, n]`, float64; its columns are 0 for fields that data have not."""

    @abstractmethod
    def d_M(self, t: Level) -> Tensor:
        """Its derivative."""

    @abstractmethod
    def covariance(self, t: Level) -> Tensor:
        """C, `[*t, n, n]`."""

    @abstractmethod
    def flow(self, t: Level) -> Tensor:
        """P, `[*t, n, n]`."""

    @abstractmethod
    def kept(self, t: float, s: float) -> Tensor:
        """A, for s < t."""

    def root(self, t: Level) -> Matrix:
        """L, lower triangular: of as many roots of C any will do, for draws."""
        return Matrix(torch.linalg.cholesky(self.covariance(t)))

    def information(self, t: Level) -> Matrix:
        """`M^T C^-1 M`."""
        M = self.M(t)
        return Matrix(M.mT @ torch.linalg.solve(self.covariance(t), M))

    def alpha(self, t: Level) -> NoReturn:
        """Refused: see the class."""
        raise TypeError(
            f"{type(self).__name__} is a path of matrices, without alpha and sigma: walk it with DDPM(), DDIM(), "
            "Heun() or LinearMultistep(), and let its network predict clean data"
        )

    sigma = d_alpha = d_sigma = alpha

    def noise_scale(self, t: Level) -> Any:
        """`exp(-log_snr / 2)`."""
        return torch.exp(-0.5 * self.log_snr(t)) if isinstance(t, Tensor) else math.exp(-0.5 * self.log_snr(t))

    def _ended(self, z: Tree) -> Any:
        """`N(0, C(t_max))`."""
        return self.root(self.t_max)(z)

    def perturb(self, x: Tree, t: Level, z: Tree | None = None) -> Any:
        """`x_t = M x + L z`; z from torch's generator where none is given."""
        self.check(t)
        drawn: Tree = tree_map(torch.randn_like, x) if z is None else z
        if not isinstance(t, Tensor) and t == 0:
            return Matrix(self.M(t))(x)
        return affine(Matrix(self.M(t)), x, self.root(t), drawn)

    def to_clean(self, have: Quantity, t: Level) -> tuple[Any, Any]:
        """`(0, 1)` for clean data, and no other: M need have no inverse."""
        if have != "clean":
            raise ValueError(f"on a path of matrices a network predicts clean data, not {have!r}")
        return 0.0, 1.0

    def from_clean(self, want: Quantity, t: Level) -> tuple[Any, Any]:
        """`(a, b)` with `value = a x_t + b x_hat`, matrices both."""
        if want == "clean":
            return 0.0, 1.0
        if want == "velocity":
            P = self.flow(t)
            return Matrix(P), Matrix(self.d_M(t) - P @ self.M(t))
        if want not in get_args(Quantity):
            raise ValueError(f"unknown quantity {want!r}: one of {', '.join(get_args(Quantity))}")
        L, eye = self.root(t).values, torch.eye(self.M(t).shape[-1], dtype=torch.float64)
        inverse = torch.linalg.solve(L, eye) if want == "eps" else -torch.linalg.solve(self.covariance(t), eye)
        return Matrix(inverse), Matrix(-inverse @ self.M(t))

    def bridge(self, t: Level, s: Level, eta: float = 1.0) -> tuple[Any, Any, Any]:
        """`(a, b, L)` of `x_s = a x_t + b x_hat + L z`: the posterior at `eta = 1`, and at `eta = 0` the flow, whose a
        solves `a' = P a`; in both `b = M_s - a M_t`. A step to clean returns `M_0 x_hat`.
        """
        if eta not in (0.0, 1.0):
            raise ValueError(f"a path of matrices has the flow (eta 0) and the posterior (eta 1), not eta={eta}")
        t, s = _number(t), _number(s)
        if s == t:
            return 1.0, 0.0, 0.0
        if s == 0:
            return 0.0, Matrix(self.M(s)), 0.0
        a = self.kept(t, s) if eta else self.carried(t, s)
        b = self.M(s) - a @ self.M(t)
        if not eta:
            return Matrix(a), Matrix(b), 0.0
        return Matrix(a), Matrix(b), Matrix(_root(self.covariance(s) - a @ self.covariance(t) @ a.mT))

    def carried(self, t: float, s: float) -> Tensor:
        """What `A' = P A` makes of the identity from t to s."""
        return self._solved(t, s, lambda u: self.flow(u))

    def sloped(self, t: float, s: float) -> Tensor:
        """`int_t^s A_s A_u^-1 Q_u (u - t) du`: what an estimate that grows with time adds."""
        n = self.M(t).shape[-1]

        def both(u: Tensor) -> Tensor:
            P = self.flow(u)
            Q = (self.d_M(u) - P @ self.M(u)) * (u - t)[:, None, None]
            return torch.cat([torch.cat([P, Q], -1), torch.zeros_like(torch.cat([P, Q], -1))], -2)

        return self._solved(t, s, both)[:n, n:]

    def _solved(self, t: float, s: float, P: Callable[[Tensor], Tensor]) -> Tensor:
        """`Y' = P Y` from the identity, by Runge and Kutta's method of order 4 in steps that shrink with the time."""
        reach = max(abs(float(self.log_snr(s)) - float(self.log_snr(t))), abs(math.log(s / t)))
        n = max(math.ceil(SUBSTEPS * reach), 1)
        u = t * (s / t) ** torch.linspace(0, 1, n + 1, dtype=torch.float64)
        h = u.diff()[:, None, None]
        first, middle, last = P(u[:-1]), P(0.5 * (u[:-1] + u[1:])), P(u[1:])
        eye = torch.eye(first.shape[-1], dtype=torch.float64)
        k_2 = middle @ (eye + 0.5 * h * first)
        k_3 = middle @ (eye + 0.5 * h * k_2)
        k_4 = last @ (eye + h * k_3)
        steps = eye + h / 6 * (first + 2 * k_2 + 2 * k_3 + k_4)
        while len(steps) > 1:  # the later on the left
            odd = steps[-1:] if len(steps) % 2 else steps[:0]
            steps = torch.cat([steps[1::2] @ steps[: 2 * (len(steps) // 2) : 2], odd])
        return steps[0]

    def up(self, x_s: Tree, s: Level, t: Level) -> Kernel:
        """`q(x_t | x_s)`, where noise is added in a way that knows nothing of x."""
        t, s = _number(t), _number(s)
        C_t, C_s = self.covariance(t), self.covariance(s)
        g = torch.linalg.solve(C_s, self.kept(t, s) @ C_t).mT
        if not torch.allclose(self.M(t), g @ self.M(s), atol=1e-8):
            raise ValueError(f"the noise of {type(self).__name__} depends on where it leads: no level of it can rise")
        return transition(Matrix(g)(x_s), Matrix(_root(C_t - g @ C_s @ g.mT)))


def bisected(f: Callable[[Tensor], Tensor], value: Level, low: float, high: float) -> Any:
    """Where a falling f has this value between two times, to the last bit, in their ratio rather than difference."""
    y = torch.as_tensor(value, dtype=torch.float64)
    a, b = (torch.full_like(y, math.log(end)) for end in (low, high))
    for _ in range(60):
        middle = 0.5 * (a + b)
        above = f(middle.exp()) > y
        a, b = torch.where(above, middle, a), torch.where(above, b, middle)
    found = (0.5 * (a + b)).exp()
    return found if isinstance(value, Tensor) else float(found)


def _number(t: Level) -> float:
    if isinstance(t, Tensor) and t.numel() > 1:
        raise ValueError("a path of matrices is walked at one level for all entries")
    return float(t)


def _root(C: Tensor) -> Tensor:
    return torch.linalg.cholesky(0.5 * (C + C.mT))
