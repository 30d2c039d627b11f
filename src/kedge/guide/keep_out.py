"""Guidance out of a region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kedge.denoise import Estimate, Estimator
from kedge.elementary import Level
from kedge.errors import InputError
from kedge.guide.guide import Guide

LEAST = 1e-12
"""What a denominator is never less than."""


@dataclass(frozen=True)
class KeepOut(Guide):
    """Moves trajectories `[B, H, S]` out of a box in their first two dimensions: `x' = x_hat + eta C r + rest`.

    r is the way out. A trajectory leaves by the one side of the box by which its points together have the least way to
    go, so that it goes round the box and does not jump across. `C = J sigma^2 / alpha` is the model's posterior
    covariance, with J the Jacobian of the estimate (as in `Gradient(through="estimate")`): what hangs together with a
    point moves with it. `eta` is the multiple of `C r` that comes nearest to r where r is not 0. The rest is what is
    still missing there, and moves those points alone. No gradient flows through the guide's own shift: to whoever
    follows gradients, such as another guide around it, the Jacobian is that of the estimate.

    Args:
        box: x from, y from, x to, y to, in the data's own units.
        margin: kept around it.
        strength: the share of the way out that is gone in each step of the walk.
        alone: without C r: each point inside moves by itself, and what hangs together with it follows as far as the
            denoiser makes it in the steps to come. It spares the network's way back, half of the work: for a draft.
        undo: makes the data's own units of what the denoiser sees; a planner says it, by `measured`.
    """

    box: tuple[float, float, float, float]
    margin: float = 0.1
    strength: float = 1.0
    alone: bool = False
    undo: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.box
        if not (x0 < x1 and y0 < y1):
            raise InputError(
                f"keep_out: a box is (x from, y from, x to, y to), each from less than its to; got {self.box}"
            )
        if not self.margin >= 0 or not 0 <= self.strength <= 1:
            raise InputError(
                f"keep_out: the margin is 0 or more, strength between 0 and 1; got {self.margin} and {self.strength}"
            )

    def measured(self, undo: Callable[[Tensor], Tensor]) -> Guide:
        """See `Guide`; what was said first holds."""
        return self if self.undo is not None else replace(self, undo=undo)

    def __call__(self, inner: Estimator, x_t: Any, t: Level, cond: Any) -> Estimate:
        """Asks the network once, and once more backwards where a point lies in the box."""
        if self.alone:
            return self._by_itself(inner.estimate(x_t, t, cond))
        followed = torch.is_grad_enabled() and x_t.requires_grad
        with torch.enable_grad():
            at = x_t if x_t.requires_grad else x_t.detach().requires_grad_()
            estimate = inner.estimate(at, t, cond)
            x_hat = _trajectories(estimate)
            side = self._side(x_hat)
            r = self._way_out(x_hat, side)
            inside = (r != 0).flatten(1).any(1)
            together = torch.zeros_like(x_hat)
            if bool(inside.any()) and self.strength > 0:
                together = torch.autograd.grad(x_hat, at, r, retain_graph=followed)[0]
        clean, together = x_hat.detach(), together.detach()
        eta = _nearest_multiple(together, r)
        moved = clean + self.strength * eta * together
        x = moved + self.strength * self._way_out(moved, side)
        shift = torch.where(inside[:, None, None], x - clean, 0.0)
        if followed:  # by a guide around this one, which asks for the Jacobian of the estimate
            return Estimate(x_hat + shift, estimate.extra)
        extra = {name: value.detach() if isinstance(value, Tensor) else value for name, value in estimate.extra.items()}
        return Estimate(clean + shift, extra)

    def _by_itself(self, estimate: Estimate) -> Estimate:
        """The estimate with the points inside moved, and no other."""
        x_hat = _trajectories(estimate)
        moved = x_hat + self.strength * self._way_out(x_hat, self._side(x_hat))
        return Estimate(moved, estimate.extra)

    @torch.no_grad()
    def _side(self, x: Float[Tensor, "b h s"]) -> Float[Tensor, "b 4"]:
        """1 for the side by which each trajectory leaves: the least sum of ways."""
        ways = self._ways(x)
        return torch.nn.functional.one_hot(ways.sum(1).argmin(-1), 4).to(x)

    def _ways(self, x: Float[Tensor, "b h s"]) -> Float[Tensor, "b h 4"]:
        """How far each point has to go to leave by each side; 0 for those outside."""
        own = (x if self.undo is None else self.undo(x))[..., :2]
        x0, y0, x1, y1 = self.box
        low, high = own.new_tensor([x0, y0]) - self.margin, own.new_tensor([x1, y1]) + self.margin
        ways = torch.cat([own - low, high - own], -1)
        return torch.where((ways > 0).all(-1, keepdim=True), ways, 0.0)

    @torch.no_grad()
    def _way_out(self, x: Float[Tensor, "b h s"], side: Float[Tensor, "b 4"]) -> Float[Tensor, "b h s"]:
        """The shift of each point, as the denoiser sees it, that takes it out by its trajectory's side."""
        ways = self._ways(x) * side[:, None]
        shift = torch.zeros_like(x)
        shift[..., :2] = ways[..., 2:] - ways[..., :2]
        if self.undo is None:
            return shift
        return shift / (self.undo(torch.ones_like(x)) - self.undo(torch.zeros_like(x)))


def keep_out(
    box: Sequence[float | int], margin: float | int = 0.1, strength: float | int = 1.0, *, alone: bool = False
) -> KeepOut:
    """A guide that keeps plans out of a box: `agent.with_guide(keep_out((x from, y from, x to, y to)))`.

    It moves plans, whatever that costs; what the critic or the support think of the way round is theirs to say, so give
    them candidates to choose from.

    Args:
        box: in the units of the data, in its first two dimensions.
        margin: kept around the box, in the same units.
        strength: the share of the way out that is gone in each step of the walk; 0 changes nothing.
        alone: points inside move by themselves: half of the work, for plans that are a little less of a piece.
    """
    if len(box) != 4:
        raise InputError(f"keep_out: a box is four numbers (x from, y from, x to, y to), got {len(box)}")
    x0, y0, x1, y1 = (float(edge) for edge in box)
    return KeepOut((x0, y0, x1, y1), float(margin), float(strength), alone)


def _trajectories(estimate: Estimate) -> Float[Tensor, "b h s"]:
    """What is moved."""
    if not isinstance(estimate.x, Tensor) or estimate.x.ndim != 3:
        raise TypeError("keep_out moves trajectories: tensors [B, H, S]")
    return estimate.x


def _nearest_multiple(together: Float[Tensor, "b h s"], r: Float[Tensor, "b h s"]) -> Float[Tensor, "b 1 1"]:
    """`eta = <r, C r> / <(C r)_in, (C r)_in>`, with "in" where r is not 0; 0 where the model would go the other way."""
    there = together * (r != 0)
    eta = (r * together).sum((1, 2)) / (there * there).sum((1, 2)).clamp(min=LEAST)
    return eta.clamp(min=0)[:, None, None]
