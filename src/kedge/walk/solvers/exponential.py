"""The exponential integrator in log-SNR, for the probability flow and for the reverse SDE alike.

With lambda = log(alpha / sigma), h = lambda_s - lambda_t and kappa = 1 (flow) or 2 (SDE), both are solved by

    x_s = decay x_t + alpha_s kappa h int_0^1 e^{-kappa h (1 - r)} x_hat(r) dr + std z
    decay = sigma_s / sigma_t e^{-(kappa - 1) h},      std = sigma_s sqrt(1 - e^{-2 (kappa - 1) h})

exactly (Lu et al., "DPM-Solver++", 2022, prop. 4.1 and eq. 18; Xue et al., "SA-Solver", NeurIPS 2023, eq. 8). A solver
puts a polynomial in r for x_hat(r); the weights of 1, r and r^2 / 2 are, with q = kappa h,

    w_0 = 1 - e^{-q},      w_1 = 1 - w_0 / q,      w_2 = 1/2 - w_1 / q
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kedge import elementary as el
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath


@dataclass(frozen=True, slots=True)
class Weights:
    """One step's `decay`, the weights of 1, r and r^2 / 2 (each times alpha_s), its `std` and its length h (0 where the
    step has no length or no end).
    """

    decay: Any
    w_0: Any
    w_1: Any
    w_2: Any
    std: Any
    h: Any


def half_log_snr(path: GaussianPath, t: Level) -> Any:
    """`lambda = log(alpha / sigma)`."""
    return 0.5 * path.log_snr(t)


def weights(path: GaussianPath, t: Level, s: Level, kappa: int = 1) -> Weights:
    """Of the step from t to s. A step of no length is the identity; one to clean returns x_hat (decay 0, w_0 1, and the
    derivatives, which are infinite steps away, count for nothing).
    """
    alpha_s, sigma_s = path.alpha(s), path.sigma(s)
    still, ends = s == t, s == 0
    # A step of no length is put right below; until then any length keeps its derivatives finite.
    h = el.where(still, 1.0, half_log_snr(path, s) - half_log_snr(path, t))
    q = kappa * h
    e = el.exp(-(kappa - 1) * h) if kappa > 1 else 1.0
    w_0 = -el.expm1(-q)
    w_1 = 1 - el.ratio(w_0, q)
    w_2 = 0.5 - el.ratio(w_1, q)

    def settle(value: Level, at_rest: float, at_end: float) -> Any:
        return el.where(still, at_rest, el.where(ends, at_end, value))

    return Weights(
        decay=settle(el.ratio(sigma_s, path.sigma(t)) * e, 1.0, 0.0),
        w_0=settle(alpha_s * w_0, 0.0, 1.0),
        w_1=settle(alpha_s * w_1, 0.0, 0.0),
        w_2=settle(alpha_s * w_2, 0.0, 0.0),
        std=settle(sigma_s * el.sqrt(el.clip(1 - e * e, 0.0, 1.0)), 0.0, 0.0) if kappa > 1 else 0.0,
        h=settle(h, 0.0, 0.0),
    )


def moments(q: Level, n: int) -> list[Any]:
    """`J_m = int_0^1 e^{-q (1 - r)} r^m dr` for m < n: what an exponential step makes of a polynomial in r.

    `q J_m = 1 - m J_{m-1}` cancels near q = 0; there it is the series `m! sum_j (-q)^j / (m + 1 + j)!`.
    """
    small = abs(q) < 1
    if not isinstance(q, Tensor):
        return _series(q, n) if small else _recurrence(q, n)
    near, far = _series(el.where(small, q, 0.0), n), _recurrence(el.where(small, 1.0, q), n)
    return [el.where(small, a, b) for a, b in zip(near, far, strict=True)]


def spans(q: Level, n: int) -> tuple[Any, ...]:
    """`q J_m` for m < n, with q the length of the step in the exponent; 1 each where that is infinite."""
    endless = abs(q) == math.inf
    length = el.where(endless, 1.0, q)
    return tuple(el.where(endless, 1.0, length * J) for J in moments(length, n))


def _series(q: Any, n: int) -> list[Any]:
    return [sum((-q) ** j * (math.factorial(m) / math.factorial(m + 1 + j)) for j in range(18)) for m in range(n)]


def _recurrence(q: Any, n: int) -> list[Any]:
    found = [-el.expm1(-q) / q]
    for m in range(1, n):
        found.append((1 - m * found[-1]) / q)
    return found


def part_way(path: GaussianPath, t: Level, s: Level, r: float) -> Any:
    """The time a fraction r of the way from t to s, in log-SNR."""
    log_snr = path.log_snr(t) + r * (path.log_snr(s) - path.log_snr(t))
    return el.where(s == t, t, el.where(s == 0, 0.0, path.time_of(log_snr)))


def ends(s: Level) -> bool:
    """Whether the whole step goes to clean."""
    return bool((s == 0).all()) if isinstance(s, Tensor) else s == 0
