"""What a network is asked on its way from noise to data, and at which of its steps to listen.

Static scales are set once for all levels, so they have to be set on what the network will meet: not data, not noise,
not noised data, but the states of its own walks, each at its own level (Shang, Yuan, Xie, Wu and Yan, "Post-training
quantization on diffusion models", CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kedge.cond import Cond, take_cond
from kedge.denoise import Estimate, Estimator, Wrapped
from kedge.elementary import Level
from kedge.fit import Draw
from kedge.noise import Noise
from kedge.paths.gaussian import GaussianPath
from kedge.slots import ASKED_SLOT
from kedge.tree import Tree


@dataclass(frozen=True)
class NormalSteps:
    """Which evaluation of a walk each sample is taken from: `t ~ N(mean, std^2)`, clipped to [0, 1], with 0 the last
    evaluation, next to data, and 1 the first, of noise. The published defaults lean to the clean end; a `std` of 0 is
    one step for all.
    """

    mean: float = 0.4
    std: float = 0.4

    def draw(self, count: int, evaluations: int, noise: Noise) -> Tensor:
        """`[count]` places in a walk's evaluations, the first one 0."""
        t = self.mean + self.std * noise.normal((count,), 0, ASKED_SLOT)
        return (evaluations - 1) - (t.clamp(0, 1) * (evaluations - 1)).round().long()


@dataclass(frozen=True, eq=False)
class Asked:
    """States `[B, ...]`, the level of each, and the condition."""

    x: Tensor
    t: Tensor
    cond: Cond | None = None

    def take(self, index: Tensor) -> Asked:
        """The samples at `index`."""
        return Asked(self.x.index_select(0, index), self.t.index_select(0, index), take_cond(self.cond, index))

    @classmethod
    def noised(cls, path: GaussianPath, x: Tensor, draw: Draw, cond: Cond | None = None) -> Asked:
        """Data that are noised outright, at a draw's levels."""
        assert isinstance(draw.z, Tensor)
        x_t = path.perturb(x, draw.t, draw.z)
        assert isinstance(x_t, Tensor)
        return cls(x_t, draw.t, cond)


@dataclass
class _Listener:
    """Keeps every call of a denoiser, walk by walk; a walk begins where the level rises."""

    walks: list[list[Asked]] = field(default_factory=list)
    last: float = 0.0

    def __call__(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
        if not isinstance(x_t, Tensor):
            raise TypeError("what is quantised denoises a tensor, not a dictionary of them")
        level = torch.as_tensor(t, dtype=torch.float64)
        level = level.reshape(1).expand(len(x_t)) if not level.ndim else level.expand(len(x_t), *level.shape[1:])
        now = float(level.mean())
        if not self.walks or now > self.last:
            self.walks.append([])
        self.last = now
        self.walks[-1].append(Asked(x_t.detach().clone(), level, cond))
        return inner.estimate(x_t, t, cond)


def asked_on_walks(
    denoiser: Any, walk: Callable[[Any], object], steps: NormalSteps | None = None, seed: int = 0
) -> Asked:
    """One state of each sample that `walk` makes, from the step that `steps` draws for it.

    Args:
        denoiser: what will be asked.
        walk: makes samples by the denoiser that it is given, in one walk or several: `lambda d: sample(d, ...)`.
        steps: of the walk; by default those of the paper.
        seed: of the steps.
    """
    listener = _Listener()
    with torch.no_grad():
        walk(Wrapped(denoiser, listener))
    if not listener.walks:
        raise ValueError("asked_on_walks: the walk has not asked the denoiser that it was given")
    law, noise = steps or NormalSteps(), Noise.of(seed, sum(len(calls[0].x) for calls in listener.walks))
    kept, first = list[Asked](), 0
    for calls in listener.walks:
        own = torch.arange(first, first + len(calls[0].x))
        kept.append(_picked(calls, law.draw(len(own), len(calls), noise.take(own, fork=False))))
        first += len(own)
    return _joined(kept)


def _picked(calls: Sequence[Asked], at: Tensor) -> Asked:
    """Of each sample the state of one call."""
    parts = [(one.take(index), index) for place, one in enumerate(calls) if len(index := (at == place).nonzero()[:, 0])]
    whole, order = _joined([part for part, _ in parts]), torch.cat([index for _, index in parts])
    return whole.take(order.argsort())


def _joined(parts: Sequence[Asked]) -> Asked:
    """One after the other."""
    return Asked(
        torch.cat([part.x for part in parts]), torch.cat([part.t for part in parts]), _conds([p.cond for p in parts])
    )


def _conds(conds: Sequence[Cond | None]) -> Cond | None:
    known = [cond for cond in conds if cond is not None]
    if not known:
        return None
    if len(known) < len(conds):
        raise ValueError("asked_on_walks: some states come with a condition and some without")
    fields = {name: torch.cat([cond.fields[name] for cond in known]) for name in known[0].fields}
    return Cond(fields, {name: torch.cat([cond.keep[name] for cond in known]) for name in known[0].keep})
