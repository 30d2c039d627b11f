"""The polynomial through earlier estimates, under an exponential integral: what multistep solvers of any order share.

A step is seen in `r`, 0 where it begins and 1 where it ends; earlier levels lie at r < 0. With q its length in the
exponent, the integral of a polynomial needs the moments

    m_k = q int_0^1 e^{-q (1 - r)} r^k dr,      m_0 = 1 - e^{-q},      m_k = 1 - k m_{k-1} / q

and the polynomial through the values at r_0, r_1, ... is Newton's, whose n-th term is a divided difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kedge import elementary as el
from kedge.elementary import Level

TERMS = 20
"""Of the series for short steps: where |q| < 1, the next is below 1e-19 of the first."""


def moments(q: Level, n: int) -> tuple[Any, ...]:
    """`m_0 ... m_{n-1}`. The recursion divides by q again and again, so short steps take the series

    m_k = q sum_j (-q)^j k! / (k + j + 1)!
    """
    short = abs(q) < 1
    small, large = el.where(short, q, 0.5), el.where(short, 1.0, q)
    recursed: list[Any] = [-el.expm1(-large)]
    for k in range(1, n):
        recursed.append(1 - k * el.ratio(recursed[-1], large))
    return tuple(el.where(short, _series(small, k), recursed[k]) for k in range(n))


def _series(q: Level, k: int) -> Any:
    total, term = 0.0, q / (k + 1)
    for j in range(TERMS):
        total = total + term
        term = -term * q / (k + j + 2)
    return total


def newton(
    at: Sequence[Any], m: Sequence[Any], reach: float, powers: bool = False, first: Any = 1.0
) -> tuple[Any, ...]:
    """The weight of the value at each of `at`, in the integral of the polynomial through all of them:

        sum_n M_n [r_0 ... r_n],      M_n = int prod_{i<n} (r - r_i)

    where [...] is a divided difference and `m` are the integrals of the powers of r; a power for which there is none
    counts for nothing. Where a level lies so near to another that dividing by what is between them would blow up
    rounding or noise (`reach` times nearer than the step is long), the order falls for that entry.

    powers: `M_n = int r^n`, as DPM-Solver-v3 has its "pseudo" derivatives.
    first: what the first divided difference counts.
    """
    weights: list[Any] = [0.0] * len(at)
    product: list[Any] = [1.0]  # coefficients of prod (r - r_i), the constant first
    apart: Any = True
    for n, r in enumerate(at):
        for other in at[:n]:
            apart = apart & (abs(r - other) * reach > 1)
        M = m[n] if powers else sum((c * m_k for c, m_k in zip(product, m, strict=False)), start=0.0)
        M = M * first if n == 1 else M
        for j in range(n + 1):
            rest = math.prod((at[j] - at[i] for i in range(n + 1) if i != j), start=1.0)
            weights[j] = weights[j] + el.where(apart, el.ratio(M, el.where(apart, rest, 1.0)), 0.0)
        product = [a - r * b for a, b in zip([0.0, *product], [*product, 0.0], strict=True)]
    return tuple(weights)


def ends(s: Level) -> bool:
    """Whether the whole step goes to clean."""
    return bool((s == 0).all()) if isinstance(s, Tensor) else s == 0
