"""A polynomial through what earlier steps left, integrated over the next: Lagrange's, and Newton's term by term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from kedge import elementary as el
from kedge.elementary import Level

REACH, SDE_REACH = 1000.0, 10.0
"""How many times its own length an earlier step may be extrapolated: over the flow, whose estimates differ by h and by
rounding; and over the SDE, whose estimates differ by noise of size sqrt(h).
"""


def interpolated(nodes: Sequence[Level], moments: Sequence[Level]) -> tuple[Any, ...]:
    """Weights of the values at the nodes: with Lagrange's polynomials `l_k(u) = prod_j (u - u_j) / (u_k - u_j)`,
    written in powers of u, of each of which `moments` is the integral.
    """
    return tuple(_weight(nodes, k, moments) for k in range(len(nodes)))


def _weight(nodes: Sequence[Level], k: int, moments: Sequence[Level]) -> Any:
    powers: list[Any] = [1.0]
    for j, node in enumerate(nodes):
        if j != k:
            gap = nodes[k] - node
            gap = el.where(gap == 0, 1.0, gap)
            lower, higher = [-node * p for p in powers] + [0.0], [0.0, *powers]
            powers = [(a + b) / gap for a, b in zip(lower, higher, strict=True)]
    return sum(p * m for p, m in zip(powers, moments, strict=False))


def behind(values: Sequence[Level], i: int, known: int, idle: Any) -> list[Any]:
    """Where the latest `known` levels of step i lie, the newest first, as seen from it: its own start is 0, its end 1.

    Args:
        values: of all levels: their times, noise scales or log-SNRs.
        i: which step.
        known: how many levels, the step's start among them.
        idle: where the step has no length, or no end.
    """
    length = el.where(idle, 1.0, values[i + 1] - values[i])
    return [(values[i - k] - values[i]) / length for k in range(min(known, i + 1))]


def falling(
    nodes: Sequence[Level],
    moments: Sequence[Level],
    first: Sequence[Level] = (),
    besides: tuple[int, Sequence[Level]] | None = None,
) -> tuple[Any, ...]:
    """`interpolated`, but for entries of which an earlier step was too short to tell a slope, or none: there the order
    falls.

    Args:
        nodes: as `behind` says, newest first.
        moments: integrals of 1, u, u^2, ...
        first: nodes besides, which are always used; their weights come first.
        besides: with so many of `nodes`, other moments.
    """

    def through(n: int) -> tuple[Any, ...]:
        return interpolated([*first, *nodes[:n]], besides[1] if besides and n == besides[0] else moments)

    found, flat = through(1), False
    for n in range(2, len(nodes) + 1):
        flat = flat | (abs(nodes[n - 1] - nodes[n - 2]) * REACH <= 1)
        found = tuple(el.where(flat, a, b) for a, b in zip((*found, 0.0), through(n), strict=True))
    return found


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
        own = m[n] if powers else sum((c * m_k for c, m_k in zip(product, m, strict=False)), start=0.0)
        M = own * first if n == 1 else own
        for j in range(n + 1):
            rest = math.prod([at[j] - at[i] for i in range(n + 1) if i != j], start=1.0)
            weights[j] = weights[j] + el.where(apart, el.ratio(M, el.where(apart, rest, 1.0)), 0.0)
        product = [a - r * b for a, b in zip([0.0, *product], [*product, 0.0], strict=True)]
    return tuple(weights)


def after(decay: Any, corrections: Sequence[Any], predictions: Sequence[Any]) -> tuple[Any, ...]:
    """Weights of a prediction that begins where a correction leads, `b_k + decay c_k`; what one of them lacks is 0."""
    return tuple(b + decay * c for b, c in zip_longest(predictions, corrections, fillvalue=0.0))
