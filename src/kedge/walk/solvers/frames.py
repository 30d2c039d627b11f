"""One step as the integral of what is predicted: the clean estimate, the noise, or what statistics leave of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge import elementary as el
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath
from kedge.walk.solvers.exponential import half_log_snr, spans
from kedge.walk.solvers.interpolation import REACH, newton
from kedge.walk.solvers.statistics import Statistics


@dataclass(frozen=True)
class Frame:
    """`x_s = decay x_t + scale int_0^1 weight(r) y(r) dr + constant`, exactly.

    Args:
        moments: the first so many `int weight(r) r^k dr`.
        length: of the step, in the units of the moments: their first one is near it in a short step.
        value: of a level, `(a, b, c)` of `y = a x + b x_hat + c` there.
        place: of a level, its r.
    """

    decay: Any
    scale: Any
    moments: Callable[[int], tuple[Any, ...]]
    length: Any
    value: Callable[[Level], tuple[Any, Any, Any]]
    place: Callable[[Level], Any]
    h: Any
    constant: Any = 0.0

    @classmethod
    def of(cls, predict: str, path: GaussianPath, t: Level, s: Level, statistics: Statistics | None) -> Frame:
        """Of the step from t to s, with h its length in `lambda = log(alpha / sigma)`:

        clean: `x_s = sigma_s / sigma_t x_t + alpha_s int_0^h e^{u - h} x_hat du`
        eps: `x_s = alpha_s / alpha_t x_t - sigma_s int_0^h e^{h - u} eps du`
        """
        stays = (s == t) | (s == 0)
        h = el.where(stays, 1.0, half_log_snr(path, s) - half_log_snr(path, t))

        def place(level: Level) -> Any:
            return (half_log_snr(path, level) - half_log_snr(path, t)) / h

        if predict == "fitted":
            assert statistics is not None
            return _fitted(path, t, s, statistics, place)
        if predict == "clean":
            decay = el.ratio(path.sigma(s), path.sigma(t))
            return cls(decay, path.alpha(s), lambda n: spans(h, n), h, lambda level: (0.0, 1.0, 0.0), place, h)
        decay = el.ratio(path.alpha(s), path.alpha(t))
        scale = path.sigma(s)
        return cls(decay, scale, lambda n: spans(-h, n), -h, lambda u: (*path.from_clean("eps", u), 0.0), place, h)


def weighed(frame: Frame, m: Sequence[Any], levels: Sequence[Level], powers: bool, relax: float) -> list[Any]:
    """What each of the values at these levels counts for, the first of which is the beginning of the step."""
    weights = newton([frame.place(level) for level in levels], m, REACH, powers, 1 + relax * frame.h)
    return [frame.scale * weight for weight in weights]


def _fitted(path: GaussianPath, t: Level, s: Level, statistics: Statistics, place: Callable[[Level], Any]) -> Frame:
    """With `y = x / alpha`, `f = (1 - l) y - x_hat` and all integrals from lambda_t on (Zheng et al., "DPM-Solver-v3",
    NeurIPS 2023, eq. 8-12):

        y_s = e^{-L} (y_t - int_0^h e^{L + S} (g + B) du),      g = e^{-S} f - B

    of which g, the better l, s and b fit the model, hardly changes along the step.
    """
    if isinstance(t, Tensor) or isinstance(s, Tensor):
        raise ValueError("statistics belong to entries: a walk by them has one level, a number, for all of them")
    lam = half_log_snr(path, t)
    h = half_log_snr(path, s) - lam
    if h == 0:
        return Frame(1.0, 0.0, lambda n: (0.0,) * n, 0.0, lambda u: (0.0, 1.0, 0.0), lambda u: 0.0, 1.0)
    whole = statistics.march(lam, half_log_snr(path, s))
    scale = -path.alpha(s) * torch.exp(-whole.L)

    def value(u: Level) -> tuple[Any, Any, Any]:
        there = half_log_snr(path, u)
        gone = statistics.march(lam, there)
        shrink, l = torch.exp(-gone.S), statistics.linear(there)  # noqa: E741
        return shrink * (1 - l) / path.alpha(u), -shrink, -gone.B

    decay = el.ratio(path.alpha(s), path.alpha(t)) * torch.exp(-whole.L)
    J = whole.J.unsqueeze(1).unbind()
    return Frame(decay, scale, lambda n: J[:n], h, value, place, h, scale * whole.C)
