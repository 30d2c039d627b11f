"""A draw: the level and the noise at which a denoiser is asked. It is a value, so that it can be stored and shared
between a pair, a group, or an old model and a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

from torch import Tensor

from kedge.noise import Noise
from kedge.paths.gaussian import GaussianPath
from kedge.slots import LEVEL_SLOT, Z_SLOT
from kedge.tree import Tree, first_leaf, take

Spread = Literal["independent", "stratified", "lattice"]
"""How the levels of a batch of B lie: independently; one in each of B equally likely bins; or on a lattice of B equally
likely steps that is shifted as a whole (Kingma et al., "Variational diffusion models", NeurIPS 2021, appendix I.1). The
last two estimate the same expectation with less variance.
"""


@dataclass(frozen=True, eq=False)
class Draw:
    """Where a denoiser is asked."""

    t: Tensor
    """Times, `[B]`, or `[B, T]` where the entries of a sample are at levels of their own; float64."""
    z: Tree
    """The noise, in the shape of x."""
    weight: Tensor | None = None
    """A weight of each level beside the weighting's, where one is wanted: of importance, or of a quadrature."""

    def take(self, index: Tensor) -> Draw:
        """The draws of the samples at `index`."""
        weight = None if self.weight is None else self.weight.index_select(0, index)
        return Draw(self.t.index_select(0, index), take(self.z, index), weight)


@runtime_checkable
class Proposal(Protocol):
    """The law of the levels that a denoiser is trained at."""

    def times(self, path: GaussianPath, u: Tensor) -> Tensor:
        """The time below which a share u of the levels lies, for u in (0, 1)."""
        ...

    def draw(self, path: GaussianPath, x: Tree, noise: Noise, step: int) -> Draw:
        """A level and noise for each sample of x."""
        ...


def drawn(
    times: Callable[[GaussianPath, Tensor], Tensor],
    spread: Spread,
    path: GaussianPath,
    x: Tree,
    noise: Noise,
    step: int,
) -> Draw:
    """A draw from a law that is given by its quantiles, held within the path's times."""
    t = times(path, uniforms(spread, first_leaf(x).shape[0], noise, step))
    return Draw(t.clamp(path.t_min, path.t_max), path.noise(x, noise, step, Z_SLOT))


def uniforms(spread: Spread, batch: int, noise: Noise, step: int) -> Tensor:
    """`[B]` numbers, each uniform on (0, 1). Which sample gets which stratum is random too."""
    if spread not in get_args(Spread):
        raise ValueError(f"unknown spread={spread!r}: one of {', '.join(get_args(Spread))}")
    if spread == "independent":
        return noise.uniform((batch, 2), step, LEVEL_SLOT)[:, 0]
    everyone, here = noise.everyone
    count = batch if everyone is noise else len(everyone.key)
    u, order = everyone.uniform((count, 2), step, LEVEL_SLOT).unbind(1)
    stratum = order.argsort().argsort()
    return ((stratum + u) / count if spread == "stratified" else (stratum + u[0]) / count)[here]
