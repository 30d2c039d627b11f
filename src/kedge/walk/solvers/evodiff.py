"""EVODiff: second-order steps whose coefficients are projections of the estimates themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from kedge import elementary as el
from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.kernels import Point
from kedge.paths.gaussian import GaussianPath, affine, combine
from kedge.tree import lead, tree_map
from kedge.walk.solvers.exponential import ends, half_log_snr
from kedge.walk.state import State, Step

FEW, CLAMP = 20, 2.0
"""Up to so many steps the first rule for zeta holds; projections are held within so much. Both as released."""


class Balanced(NamedTuple):
    """One step: `decay`, `w = 1 - kappa_s / kappa_t`, that times alpha_s, `r` (the step before in lengths of this one),
    the square root of how the fall of kappa compares with the step before's, how far projections count beside it, what
    divides a difference of estimates into a rate, and whether the walk has many steps.
    """

    decay: Any
    w: Any
    gain: Any
    r: Any
    ratio: Any
    trust: Any
    rate: Any
    many: bool


class Planned(NamedTuple):
    """What corrects the end of the step before, and what makes this one; None: the step to clean."""

    before: Balanced | None
    now: Balanced | None
    fixed: tuple[tuple[Any, ...], ...] = ()
    """Not adapted, the coefficients of x_t, of the estimate there and of those before, by how many there are."""


@dataclass(frozen=True)
class EVODiff:
    """With `m` the estimates, kappa = sigma / alpha and `w = 1 - kappa_s / kappa_t`, x / alpha moves along a step as

        x_e = (1 - w) x + w m_0,      x_p = x_e + w / (2 r_i) D_1,      D_1 = m_0 - rho_1 m_{-1}
        x = x_e + w / (2 zeta) B,     B = r (1 - eta) D_2 - eta / r D_1,      D_2 = m(x_p) - rho_2 m_0

    where rho, r_i, eta and zeta are what makes the conditional variance small, by projections of the estimates on each
    other, held within bounds. Li, Chen and Zeng, "EVODiff: entropy-aware variance optimized diffusion inference",
    NeurIPS 2025; the constants are those of the released code, which were set on images.

    The estimate at the probing point x_p serves the correction and the next step: one evaluation a step. So a walk's
    states are probing points, and x is corrected where the next step begins. The step to clean returns x_hat; the
    released code stops above it with a damped step of its own, which is left out. Balances are taken of kappa, so that
    all paths see the same walk; with alpha = 1 that is the released code.

    Args:
        adapt: False leaves rho = 1, r_i = r, eta = 0 and zeta = r: the midpoint predictor and the corrector of two
            points, which are of order 2. Adapted coefficients do not vanish with the step: order 1.
        channel: an axis whose entries have coefficients of their own, 1 in images; by default a sample has one.
        temperature: of the sigmoid in `r_i = r sigmoid(temperature |rho_1|)`.
        shift: of the one in `zeta = sigmoid(|zeta*| - shift)`.
    """

    adapt: bool = True
    channel: int | None = None
    temperature: float = 0.25
    shift: float = 0.5
    density: Literal["none"] = "none"

    def evaluations(self, steps: int) -> int:
        """One a step."""
        return steps

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[Planned]:
        """The coefficients of each step."""
        if any(isinstance(level, Tensor) and level.numel() > 1 for level in levels):
            raise ValueError("EVODiff: what it projects is of whole samples; entries cannot have levels of their own")
        steps = [None if ends(s) else _balanced(path, levels, i) for i, s in enumerate(levels[1:])]
        pairs = pairwise([None, *steps])
        return [Planned(before, now, () if self.adapt or now is None else _fixed(before, now)) for before, now in pairs]

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: Planned) -> Step:
        """Corrects x_t by the estimate there, then probes x_s. `memory` holds the latest estimates, newest first."""
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        before, now, fixed = coefficients
        if now is None:
            return Step(Point(estimate.x), {}, estimate)
        m = [estimate.x, *state.memory.values()]
        kept = {f"x_hat_{n}": value for n, value in enumerate(m[:2])}
        if fixed:
            ks = fixed[min(len(m), len(fixed)) - 1]
            return Step(Point(combine(*zip(ks, [state.x, *m], strict=False))), kept, estimate)
        x = state.x
        if before is not None and len(m) == 3:
            x = tree_map(lambda x, *m: x + self._correction(before, *m), x, *m)
        x = affine(now.decay, x, now.gain, m[0])
        if len(m) > 1:
            x = tree_map(lambda x, m_0, m_1: x + self._probe(now, m_0, m_1)[0], x, m[0], m[1])
        return Step(Point(x), kept, estimate)

    def _probe(self, step: Balanced, m_0: Tensor, m_1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`alpha_s w / (2 r_i) D_1`, D_1 and r_i."""
        rho = self._rho(step, m_0, m_1)
        D_1 = m_0 - rho * m_1
        r, gain = _lead(step.r, m_0), _lead(step.gain, m_0)
        r_i = r * torch.sigmoid(self.temperature * rho.abs()).clamp(0.25, 1.5)
        return 0.5 * gain / r_i * D_1, D_1, r_i

    def _correction(self, step: Balanced, m: Tensor, m_0: Tensor, m_1: Tensor) -> Tensor:
        """`alpha_s w / 2 (B / zeta - D_1 / r_i)`: from the probing point to the end of that step."""
        probed, D_1, r_i = self._probe(step, m_0, m_1)
        r, w, rate = (_lead(value, m) for value in (step.r, step.w, step.rate))
        D_2 = m - self._rho(step, m, m_0) * m_0
        before, after = D_1 / (r * rate), r / rate * D_2
        eta = 0.5 * torch.sigmoid((0.5 * self._onto(after + before, after - before)).abs())
        B = r * (1 - eta) * D_2 - eta / r * D_1
        aside = self._onto(0.5 * w / r_i * (D_1 - B), D_1) / el.where(w == 0, 1.0, w)
        shifted = aside.abs() - self.shift
        if step.many:
            trusted = torch.sigmoid(self._onto(m_0, (m_0 - m_1) / rate) * (2 - (1 - w) ** 2))
            shifted = -shifted * trusted
        return 0.5 * _lead(step.gain, m) / torch.sigmoid(shifted) * B - probed

    def _rho(self, step: Balanced, m: Tensor, past: Tensor) -> Tensor:
        trust = _lead(step.trust, m)
        return (1 - trust) * _lead(step.ratio, m) + trust * self._onto(m, past)

    def _onto(self, a: Tensor, b: Tensor) -> Tensor:
        """`<a, b> / <b, b>`, held within bounds: how much of a lies along b; 0 where b is nothing."""
        axes = [axis for axis in range(1, a.ndim) if axis != self.channel]
        over, under = (((c * b).sum(axes, keepdim=True) if axes else c * b) for c in (a, b))
        return torch.where(under > 0, over / torch.where(under > 0, under, 1.0), 0.0).clamp(-CLAMP, CLAMP)


def _balanced(path: GaussianPath, levels: Sequence[Level], i: int) -> Balanced:
    """Of the step from level i. An entry that stays where it is takes no step, one that goes to clean its estimate."""
    t, s = levels[i], levels[i + 1]
    lam = [half_log_snr(path, level) for level in (levels[max(i - 1, 0)], t, s)]
    stays, fresh = (s == t) | (s == 0), (lam[1] == lam[0]) | (s == t) | (s == 0)
    h = el.where(stays, 1.0, lam[2] - lam[1])
    h_1 = el.where(fresh, 1.0, lam[1] - lam[0])
    w = el.where(s == t, 0.0, -el.expm1(-h))
    now = (path.noise_scale(s) + _least(path, levels)) / (path.noise_scale(levels[0]) + _least(path, levels))
    trust = 0.5 * (1 - el.clip(now, 0.0, 1.0) ** 2)
    decay = el.where(s == t, 1.0, el.where(s == 0, 0.0, el.ratio(path.sigma(s), path.sigma(t))))
    first = el.where(s == 0, 1.0, path.alpha(s) * w)
    rate = el.exp(el.where(stays, 0.0, lam[2])) - el.exp(el.where(stays, -1.0, lam[1]))
    return Balanced(decay, w, first, h_1 / h, el.exp(0.5 * (h_1 - h)), trust, rate, len(levels) - 1 > FEW)


def _least(path: GaussianPath, levels: Sequence[Level]) -> float:
    """The smallest noise scale of the levels above clean."""
    scales = torch.cat([torch.as_tensor(path.noise_scale(level), dtype=torch.float64).flatten() for level in levels])
    return float(torch.where(scales > 0, scales, torch.inf).min())


def _fixed(before: Balanced | None, now: Balanced) -> tuple[tuple[Any, ...], ...]:
    """With rho = 1, r_i = r, eta = 0 and zeta = r, correction and probe are one sum. Of the step before, with c half
    its gain, the correction is `c (m - m_0) - c / r (m_0 - m_1)`; with k half this one's, divided by its r, the probe
    is `k (m - m_0)`.
    """
    k = 0.5 * now.gain / now.r
    alone, two = (now.decay, now.gain), (now.decay, now.gain + k, -k)
    if before is None:
        return alone, two
    c = now.decay * 0.5 * before.gain
    return alone, two, (now.decay, now.gain + k + c, -k - c - c / before.r, c / before.r)


def _lead(value: Any, like: Tensor) -> Any:
    return lead(value, like) if isinstance(value, Tensor) else value
