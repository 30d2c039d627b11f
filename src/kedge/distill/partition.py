"""Which of many levels to stop at, where every jump has its cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Bound = Callable[[Sequence[int]], float]


def least(cost: Float[Tensor, "k k"], n: int, later: float = 1.0) -> list[int]:
    """The n jumps from the first level to the last that cost least in sum, by dynamic programming:

        V[j][1] = C[j][end],    V[j][k] = min over i > j of C[j][i] + later V[i][k - 1]

    Args:
        cost: of a jump from level i to level j > i; what is not above the diagonal is not looked at.
        n: how many jumps.
        later: what the cost of what follows counts, jump by jump.

    Returns:
        The n + 1 places, the first and the last level among them.
    """
    K = len(cost)
    if not 1 <= n < K:
        raise ValueError(f"least: {K} levels allow 1 to {K - 1} jumps, not {n}")
    C = torch.full_like(cost, float("inf")).tril() + cost.nan_to_num(nan=0.0).triu(1)
    V, after = C[:, -1], list[Tensor]()
    for _ in range(n - 1):
        V, best = (C + later * V).min(1)
        after.append(best)
    places = [0]
    for best in reversed(after):
        places.append(int(best[places[-1]]))
    return [*places, K - 1]


def swept(bound: Bound, places: Sequence[int], sweeps: int = 100) -> tuple[list[int], list[float]]:
    """One place after the other is moved to where, between its neighbours, the bound is least, until none moves; the
    ends stay. Also the bound before the first sweep and after each.
    """
    found, now = list(places), bound(places)
    history = [now]
    for _ in range(sweeps):
        was = list(found)
        for i in range(1, len(found) - 1):
            for tried in range(found[i - 1] + 1, found[i + 1]):
                other = [*found[:i], tried, *found[i + 1 :]]
                if (value := bound(other)) < now:
                    found, now = other, value
        history.append(now)
        if found == was:
            break
    return found, history


def nearest(scales: Sequence[float], wanted: Sequence[float]) -> list[int]:
    """The places of the scales next to those that are wanted, all different and in order."""
    if len(wanted) > len(scales):
        raise ValueError(f"nearest: {len(scales)} scales cannot be {len(wanted)} different ones")
    found: list[int] = []
    for i, r in enumerate(wanted):
        low, high = found[-1] + 1 if found else 0, len(scales) - (len(wanted) - i)
        found.append(min(range(low, high + 1), key=lambda k: abs(scales[k] - r)))
    return found
