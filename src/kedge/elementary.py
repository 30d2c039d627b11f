"""Elementary functions of a level: of a plain float (one level for all, computed in float64 at no cost to the walk)
or of a tensor (levels that differ between samples or entries, or that want gradients).

Infinities are values here, not errors: the clean end has an infinite log-SNR, and `log(0)` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

Level: TypeAlias = float | Tensor
"""A time, or a function of one. A tensor is aligned with the state from the batch axis on (see `tree.lead`)."""


def _lift(on_float: Callable[[float], float], on_tensor: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    def function(value: Level) -> Level:
        return on_tensor(value) if isinstance(value, Tensor) else on_float(value)

    return function


def _float_log(value: float) -> float:
    if value > 0:
        return math.log(value)
    return -math.inf if value == 0 else math.nan


def _float_exp(value: float) -> float:
    return math.inf if value > 709.78 else math.exp(value)  # nan stays nan


def _float_softplus(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


def _softplus(value: Tensor) -> Tensor:
    return torch.logaddexp(value, torch.zeros_like(value))


sin = _lift(math.sin, torch.sin)
cos = _lift(math.cos, torch.cos)
tan = _lift(math.tan, torch.tan)
asin = _lift(math.asin, torch.asin)
atan = _lift(math.atan, torch.atan)
sqrt = _lift(math.sqrt, torch.sqrt)
exp = _lift(_float_exp, torch.exp)
log = _lift(_float_log, torch.log)
expm1 = _lift(math.expm1, torch.expm1)
softplus = _lift(_float_softplus, _softplus)


def ratio(numerator: Level, denominator: Level) -> Any:
    """`numerator / denominator`, where x / 0 is an infinity and 0 / 0 is nan, also for plain floats."""
    if isinstance(numerator, Tensor) or isinstance(denominator, Tensor) or denominator != 0:
        return numerator / denominator
    return math.nan if numerator == 0 else math.copysign(math.inf, numerator)


def clip(value: Level, low: float, high: float) -> Any:
    """`value` held within `[low, high]`."""
    return value.clamp(low, high) if isinstance(value, Tensor) else min(max(value, low), high)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """Chooses entry by entry, or at once, whatever stands there, where the condition is a plain truth value."""
    if not isinstance(condition, Tensor):
        return yes if condition else no
    like = next((v for v in (yes, no) if isinstance(v, Tensor)), torch.zeros((), dtype=torch.float64))
    yes, no = (v if isinstance(v, Tensor) else torch.full_like(like, v) for v in (yes, no))
    return torch.where(condition, yes, no)
