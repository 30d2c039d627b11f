"""Safety costs that nothing is known of but their values: what `kedge align --reward FILE.py:FUNCTION` takes."""

from __future__ import annotations

from typing import Any

from kedge.envs.layout import Layout

WALLS = Layout.of("large")
NEAR = 0.3
"""What is too near to a wall, in metres."""
LIMIT = 3.0
"""What is too fast, in metres a second."""


def clear(plans: Any, cond: Any) -> list[float]:
    """Minus the share of a plan's points that are too near to a wall."""
    return (-WALLS.blocked(plans[..., :2].double().numpy(), NEAR).mean(1)).tolist()


def calm(plans: Any, cond: Any) -> list[float]:
    """Minus the share of a plan's points that are too fast; one plan after another."""
    worth = []
    for plan in plans.tolist():
        fast = sum((vx * vx + vy * vy) ** 0.5 > LIMIT for _, _, vx, vy in plan)
        worth.append(-fast / len(plan))
    return worth
