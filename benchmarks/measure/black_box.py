"""A safety cost that nothing is known of but its values: what `kedge align --reward FILE.py:FUNCTION` takes."""

from __future__ import annotations

from typing import Any

LIMIT = 3.0


def calm(plans: Any, cond: Any) -> list[float]:
    """Minus the share of a plan's points that are faster than the limit, in metres a second; one plan after another."""
    worth = []
    for plan in plans.tolist():
        fast = sum((vx * vx + vy * vy) ** 0.5 > LIMIT for _, _, vx, vy in plan)
        worth.append(-fast / len(plan))
    return worth
