"""What the tests of the walk share: all paths, all solvers, exact denoisers and plain formulas written out again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.denoise import Pinning
from kedge.elementary import Level
from kedge.exact import GaussianMixture
from kedge.noise import Noise
from kedge.paths import Cosine, GaussianPath, Rectified, Trig, VarianceExploding, VariancePreserving
from kedge.tree import lead
from kedge.walk import Solver
from kedge.walk.solvers import DDIM, DDPM, DPMSolverPP, Euler, Heun

f64 = torch.float64

PATHS: dict[str, GaussianPath] = {
    "VP": VariancePreserving(),
    "Cosine": Cosine(),
    "VE": VarianceExploding(),
    "Rectified": Rectified(),
    "Trig": Trig(0.5),
}
DETERMINISTIC: dict[str, Solver] = {
    "Euler": Euler(),
    "Heun": Heun(),
    "DDIM": DDIM(),
    "1": DPMSolverPP(1),
    "2M": DPMSolverPP(2),
    "2M-own": DPMSolverPP(2, start="own"),
    "2S": DPMSolverPP(2, multistep=False),
    "3M": DPMSolverPP(3),
    "3M-own": DPMSolverPP(3, start="own"),
    "3S": DPMSolverPP(3, multistep=False),
}
RANDOM: dict[str, Solver] = {
    "DDPM": DDPM(),
    "DDIM-.3": DDIM(0.3),
    "DDIM-1": DDIM(1.0),
    "SDE-1": DPMSolverPP(1, sde=True),
    "SDE-2": DPMSolverPP(2, sde=True),
    "SDE-3": DPMSolverPP(3, sde=True),
}
SOLVERS = DETERMINISTIC | RANDOM


def mixture() -> GaussianMixture:
    """Two correlated components in the plane."""
    covariances = torch.tensor([[[0.09, 0.03], [0.03, 0.05]], [[0.04, -0.01], [-0.01, 0.06]]], dtype=f64)
    return GaussianMixture([0.3, 0.7], torch.tensor([[-0.5, 0.2], [0.5, -0.3]], dtype=f64), covariances)


class Factorised:
    """The exact denoiser of independent Gaussian entries: levels may differ from entry to entry. It counts its calls.

    D = mean + alpha variance / (alpha^2 variance + sigma^2) (x_t - alpha mean)
    """

    def __init__(
        self, path: GaussianPath, mean: float | Tensor = 0.3, variance: float | Tensor = 0.5, pinned: Pinning = "noised"
    ) -> None:
        self.path, self.mean, self.variance = path, mean, variance
        self.pinned: Pinning = pinned
        self.calls: list[tuple[Any, Level]] = []

    def __call__(self, x_t: Any, t: Level, cond: Any = None) -> Any:
        self.calls.append((x_t, t))
        if isinstance(x_t, dict):
            return {name: self.one(leaf, t) for name, leaf in x_t.items()}
        return self.one(x_t, t)

    def one(self, x_t: Tensor, t: Level) -> Tensor:
        alpha, sigma = (lead(v, x_t) if isinstance(v, Tensor) else v for v in (self.path.alpha(t), self.path.sigma(t)))
        mean, variance = (v.to(x_t) if isinstance(v, Tensor) else v for v in (self.mean, self.variance))
        gain = alpha * variance / (alpha * alpha * variance + sigma * sigma)
        return mean + gain * (x_t - alpha * mean)


class Spy:
    """A denoiser made of any function of (x_t, t); it keeps what it was asked."""

    def __init__(
        self, path: GaussianPath, f: Callable[[Any, Level], Any] = lambda x, t: 0.5 * x, pinned: Pinning = "noised"
    ) -> None:
        self.path, self.f = path, f
        self.pinned: Pinning = pinned
        self.calls: list[tuple[Any, Level]] = []

    def __call__(self, x_t: Any, t: Level, cond: Any = None) -> Any:
        self.calls.append((x_t, t))
        return self.f(x_t, t)


def geometric(path: GaussianPath, high: float, low: float, n: int) -> list[float]:
    """n + 1 times at noise scales in geometric progression."""
    return [path.time_at(math.exp(math.log(high) + i / n * (math.log(low) - math.log(high)))) for i in range(n + 1)]


def start(path: GaussianPath, t: float, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Noise of the size that a state has at time t."""
    z = torch.randn(tuple(shape), dtype=f64, generator=torch.Generator().manual_seed(seed))
    return z * math.hypot(path.alpha(t), path.sigma(t))


def normals(seeds: int, shape: Sequence[int], steps: int) -> list[Tensor]:
    """The normals that a walk with these seeds draws in each of its steps."""
    noise = Noise.of(seeds, shape[0])
    return [noise.normal(tuple(shape), step) for step in range(steps)]


def ancestral(path: GaussianPath, t: float, s: float) -> tuple[float, float, float]:
    """q(x_s | x_t, x) by Bayes' rule (Kingma et al., "Variational diffusion models"): factors of x_t and x, std."""
    a_t, a_s, v_t, v_s = path.alpha(t), path.alpha(s), path.sigma(t) ** 2, path.sigma(s) ** 2
    a = a_t / a_s
    v = v_t - a * a * v_s
    return a * v_s / v_t, a_s * v / v_t, math.sqrt(v * v_s / v_t)


def rewritten(name: str, path: GaussianPath, D: Callable[[Any, float], Any], x: Any, t: Sequence[float], z: Any) -> Any:
    """The solvers' formulas as their papers have them, in a plain loop. `z[i]` is the noise of step i.

    Third order: the integral of the parabola through the last three estimates, by Gauss and Legendre's rule.
    """
    past: list[tuple[float, Any]] = []
    for i, (u, s) in enumerate(itertools.pairwise(t)):
        x_hat = D(x, u)
        if s == 0:
            return x_hat
        past = [(math.log(path.alpha(u) / path.sigma(u)), x_hat), *past][:3]
        x = _rewritten_step(name, path, x, x_hat, past, u, s, z[i])
    return x


def _rewritten_step(name: str, path: GaussianPath, x: Any, x_hat: Any, past: Any, t: float, s: float, z: Any) -> Any:
    a_t, s_t, a_s, s_s = path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s)
    h = math.log(a_s / s_s) - past[0][0]
    if name == "DDPM":
        a, b, std = ancestral(path, t, s)
        return a * x + b * x_hat + std * z
    if name.startswith("DDIM"):
        std = float(name.partition("-")[2] or 0) * ancestral(path, t, s)[2]
        return a_s * x_hat + math.sqrt(s_s**2 - std**2) * (x - a_t * x_hat) / s_t + std * z
    kappa = 2 if name.startswith("SDE") else 1
    order = min(int(name.replace("SDE-", "")[0]), len(past))
    decay, std = s_s / s_t * math.exp(-(kappa - 1) * h), s_s * math.sqrt(1 - math.exp(-2 * (kappa - 1) * h))
    if order < 3:
        D_i = x_hat if order == 1 else x_hat + h / (past[0][0] - past[1][0]) / 2 * (x_hat - past[1][1])
        return decay * x + a_s * (1 - math.exp(-kappa * h)) * D_i + std * z
    nodes = [(-0.9602898564975363, 0.1012285362903763), (-0.7966664774136267, 0.2223810344533745),
             (-0.5255324099163290, 0.3137066458778873), (-0.1834346424956498, 0.3626837833783620)]  # fmt: skip
    x = decay * x + std * z
    for node, weight in [(sign * node, weight) for node, weight in nodes for sign in (-1, 1)]:
        r = h * (1 + node) / 2  # from lambda_t on
        lagrange = [
            math.prod((past[0][0] + r - past[k][0]) / (past[j][0] - past[k][0]) for k in range(3) if k != j)
            for j in range(3)
        ]
        value = sum(c * p for c, (_, p) in zip(lagrange, past, strict=True))
        x = x + a_s * kappa * h / 2 * weight * math.exp(-kappa * (h - r)) * value
    return x
