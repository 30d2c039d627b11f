"""What plans and actions are worth, and which action leads from one state to another."""

from __future__ import annotations

from kedge.rl.inverse import ActionMLP, InverseDiffusion, InverseMLP
from kedge.rl.value import (
    Discounted,
    MinusSteps,
    NoisyValue,
    NoisyValueLoss,
    PlanMLP,
    PlanTransformer,
    Target,
    ValueLoss,
)

__all__ = [
    "ActionMLP",
    "Discounted",
    "InverseDiffusion",
    "InverseMLP",
    "MinusSteps",
    "NoisyValue",
    "NoisyValueLoss",
    "PlanMLP",
    "PlanTransformer",
    "Target",
    "ValueLoss",
]
