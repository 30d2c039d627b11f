"""Steps in the estimated noise, `z_hat = (x_t - alpha x_hat) / sigma`.

Along the probability flow x / alpha changes by z_hat for each unit of the noise scale `rho = sigma / alpha`, so that

    x_s = alpha_s / alpha_t x_t + alpha_s int_{rho_t}^{rho_s} z_hat d rho

A constant z_hat makes it DDIM. What a solver of higher order adds to that are multiples of `z_k - z_0`, z_0 being the
noise at x_t: these are the `ks` of this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kedge import elementary as el
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath


def to_noise(path: GaussianPath, t: Level) -> tuple[Any, Any]:
    """`(p, q)` of `z_hat = p x_t + q x_hat`; at the clean end, where nothing is known of the noise, zeros."""
    p, q = path.from_clean("eps", el.where(t == 0, path.t_min, t))
    return el.where(t == 0, 0.0, p), el.where(t == 0, 0.0, q)


def noise_step(path: GaussianPath, t: Level, s: Level, ks: Sequence[Any]) -> tuple[Any, ...]:
    """Coefficients of x_t, x_hat, z_1, z_2, ... in `x_s = DDIM(x_t, x_hat) + sum_k k (z_k - z_0)`. A step of no length
    is the identity, one to clean returns x_hat.
    """
    a, b, _ = path.bridge(t, s, eta=0.0)
    p, q = to_noise(path, t)
    ks = [el.where(idle(t, s), 0.0, k) for k in ks]
    total = sum(ks) if ks else 0.0
    return a - total * p, b - total * q, *ks


def idle(t: Level, s: Level) -> Any:
    """Whether a step has no length, or goes to clean or from it, where a log-SNR is infinite."""
    return (s == t) | (s == 0) | (t == 0)
