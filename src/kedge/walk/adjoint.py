"""Gradients through a deterministic walk in the memory of one step: the adjoint equation, solved by a walk back up.

With u = x_t / alpha and r the noise scale, the probability flow is `du/dr = eps(u, r)`: no linear term. How a loss
depends on the way, a = dL/du, and on the weights or the condition, g = dL/dtheta, follows from the end on by

    da/dr = -a^T d eps/du,      dg/dr = -a^T d eps/dtheta

so nothing but the end is kept (Pan, Liew, Tan, Feng and Yan, "AdjointDPM: adjoint sensitivity method for gradient
backpropagation of diffusion probabilistic models", ICLR 2024). As `eps = (u - x_hat) / r`, both alpha a and alpha g are
states on the path, and their clean estimates are

    2 a - alpha a^T d x_hat/dx_t,      g - a^T d x_hat/dtheta

so one solver walks x_t, alpha a and alpha g up the same levels, at a vector-Jacobian product an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils import _pytree

from kedge.denoise import Estimate, Estimator, Wrapped
from kedge.elementary import Level
from kedge.errors import InputError
from kedge.tree import Tree, leaves, tree_map
from kedge.walk.grids.levels import Levels

Walked = Callable[[Estimator, Tree, Any, Levels], Tree]
"""Walks a state over levels, by a denoiser that is told something, with a walk's solver and without its hooks."""


def check_adjoint(solver: Any, hooked: bool, rows: Sequence[Level], ups: frozenset[int]) -> None:
    """Raises where a walk is no differential equation, or more than one."""
    reasons = {
        f"{solver} draws noise": solver.density != "none",
        "hooks change the state between its steps": hooked,
        "its grid rises by noise": bool(ups),
        "its levels are tensors": any(isinstance(row, Tensor) for row in rows),
        "its grid has no step between two levels above 0": not isinstance(rows[1], Tensor) and rows[1] == 0,
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), None):
        raise InputError(f'grad="adjoint" solves a walk as a differential equation, but {reason}: use "checkpoint"')


def through(estimator: Estimator, walked: Walked, x: Tree, told: Any, rows: Sequence[float]) -> Any:
    """The state at the last of these levels, none of them clean, as a function of x, of what is told, and of every
    tensor that the denoiser turns out to depend on.
    """
    listener = Listener()
    with torch.no_grad():
        end = walked(Wrapped(estimator, listener), x, told, Levels(list(rows), rise="solve"))
    heard, form = _pytree.tree_flatten(told)
    tensors = [value for value in heard if isinstance(value, Tensor)]
    if odd := [value for value in heard if not isinstance(value, Tensor | int | float | str | None)]:
        raise InputError(
            f'grad="adjoint" cannot see the tensors of a condition of {type(odd[0]).__name__}: give a Cond'
        )
    names = list(end) if isinstance(end, dict) else None
    back = _Back(estimator, walked, Levels(list(rows)[::-1], rise="solve"), names, heard, form)
    inputs = (*leaves(x), *tensors, *listener.found.values())
    found: Any = _Adjoint.apply(back, *leaves(end), *inputs)
    return found[0] if names is None else dict(zip(names, found, strict=True))


class Listener:
    """Notes on which tensors that want gradients an estimate depends, beside the state and what is told. They are read
    off the graph of each evaluation, which is then let go: no list has to be given, and none can be incomplete.
    """

    def __init__(self) -> None:
        self.found: dict[int, Tensor] = {}

    def __call__(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
        """The estimate, detached."""
        with torch.enable_grad():
            estimate = inner.estimate(x_t, t, _pytree.tree_map_only(Tensor, torch.detach, cond))
        seen, ahead = set[Any](), [leaf.grad_fn for leaf in leaves(estimate.x)]
        while ahead:
            node = ahead.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf = getattr(node, "variable", None)  # where a graph ends in a leaf
            if isinstance(leaf, Tensor):
                self.found[id(leaf)] = leaf
            ahead += [before for before, _ in node.next_functions]
        return Estimate(tree_map(torch.detach, estimate.x))


@dataclass(frozen=True)
class _Back:
    """What the way back is made with."""

    estimator: Estimator
    walked: Walked
    levels: Levels
    names: list[str] | None
    """The fields of the state."""
    heard: list[Any]
    form: Any
    """What is told, in parts, and how they are put together."""

    def tree(self, state: Sequence[Tensor]) -> Tree:
        """The state of these leaves."""
        return state[0] if self.names is None else dict(zip(self.names, state, strict=True))

    def told(self, tensors: Sequence[Tensor]) -> Any:
        """What is told, with these tensors in place of its own."""
        own = iter(tensors)
        heard = [next(own) if isinstance(value, Tensor) else value for value in self.heard]
        return _pytree.tree_unflatten(heard, self.form)


class _Adjoint(torch.autograd.Function):
    """The end of a walk that has been made; backwards, the walk up."""

    @staticmethod
    def forward(ctx: Any, back: _Back, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.back, ctx.fields = back, 1 if back.names is None else len(back.names)
        ctx.save_for_backward(*tensors)
        return tuple(tensor.clone() for tensor in tensors[: ctx.fields])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        n, saved = ctx.fields, ctx.saved_tensors
        wanted = ctx.needs_input_grad[1 + n :]
        told = sum(isinstance(value, Tensor) for value in ctx.back.heard)
        rule = Augmented(ctx.back, n, saved[2 * n : 2 * n + told], saved[2 * n :], wanted[n:])
        found = iter(rule.solved(saved[:n], slopes))
        start = [next(found) for _ in range(n)]
        return None, *[None] * n, *start, *(next(found) if one else None for one in wanted[n:])


class Augmented:
    """The denoiser of x_t, alpha a and alpha g as one state.

    Args:
        back: what the way back is made with.
        fields: of the state x_t.
        heard: the tensors that are told.
        others: these, and those that the denoiser depends on.
        wanted: of which of the others g is asked for.
    """

    def __init__(
        self, back: _Back, fields: int, heard: Sequence[Tensor], others: Sequence[Tensor], wanted: Sequence[bool]
    ) -> None:
        self.back, self.fields, self.heard, self.others, self.wanted = back, fields, heard, others, wanted

    def solved(self, end: Sequence[Tensor], slopes: Sequence[Tensor]) -> list[Tensor]:
        """dL/dx_t of the start and dL/dtheta, from the end and dL/dx_t there."""
        path, rows = self.back.estimator.path, self.back.levels.rows()
        alpha = path.alpha(rows[0])
        g = [torch.zeros_like(leaf) for leaf, wanted in zip(self.others, self.wanted, strict=True) if wanted]
        state = [*end, *(alpha**2 * slope for slope in slopes), *g]
        named = {str(i): leaf for i, leaf in enumerate(state)}
        with torch.no_grad():
            start: Any = self.back.walked(Wrapped(self.back.estimator, self), named, None, self.back.levels)
        alpha, leaves_of_start = path.alpha(rows[-1]), list(start.values())[self.fields :]
        return [leaf / (alpha**2 if i < self.fields else alpha) for i, leaf in enumerate(leaves_of_start)]

    def __call__(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
        """One evaluation and one vector-Jacobian product."""
        n, alpha = self.fields, inner.path.alpha(t)
        state = leaves(x_t)
        a = [leaf / alpha for leaf in state[n : 2 * n]]
        with torch.enable_grad():
            x = [leaf.detach().requires_grad_() for leaf in state[:n]]
            others = list(self.others)
            for i in range(len(self.heard)):
                others[i] = others[i].detach().requires_grad_(self.wanted[i])
            told = self.back.told(others[: len(self.heard)])
            x_hat = leaves(inner.estimate(self.back.tree(x), t, told).x)
            asked = [*x, *(other for other, wanted in zip(others, self.wanted, strict=True) if wanted)]
            pulled = _pulled(x_hat, asked, a)
        hats = [2 * one - alpha * pull for one, pull in zip(a, pulled, strict=False)]
        hats += [leaf / alpha - pull for leaf, pull in zip(state[2 * n :], pulled[n:], strict=True)]
        return Estimate(
            dict(zip(map(str, range(len(state))), [*(leaf.detach() for leaf in x_hat), *hats], strict=True))
        )


def _pulled(x_hat: Sequence[Tensor], asked: Sequence[Tensor], a: Sequence[Tensor]) -> list[Tensor]:
    """`a^T d x_hat / d asked`, zeros where x_hat does not depend on it."""
    bound = [(hat, one) for hat, one in zip(x_hat, a, strict=True) if hat.requires_grad]
    if not bound:
        return [torch.zeros_like(one) for one in asked]
    hats, ones = zip(*bound, strict=True)
    return list(torch.autograd.grad(hats, asked, ones, allow_unused=True, materialize_grads=True))
