"""Coefficients that are matrices: of paths whose entries mix on their way to noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.tree import Tree


@dataclass(frozen=True, eq=False)
class Matrix:
    """`A`, in the place of a number in `A x_t + B x_hat`: `[n, n]`, or one for each sample, `[B, n, n]`.

    It multiplies the last axis of a tensor, or, field by field, a dictionary of n fields in their order. In sums a
    number stands for so many times the identity; a product of two is that of matrices, from left to right.
    """

    values: Tensor

    def __call__(self, x: Tree) -> Any:
        """`A x`, in x's dtype."""
        return self._acted(self._product, x)

    def solve(self, x: Tree) -> Any:
        """`A^-1 x`, in x's dtype."""
        return self._acted(lambda v: torch.linalg.solve(self._lead(v), v.double()[..., None])[..., 0].to(v), x)

    def diagonal(self, like: Tree) -> Any:
        """The diagonal, entry by entry as `like`."""
        return self._acted(lambda v: torch.zeros_like(v) + self._lead(v).diagonal(dim1=-2, dim2=-1).to(v), like)

    def _product(self, v: Tensor) -> Tensor:
        return torch.einsum("...ij,...j->...i", self._lead(v).to(v), v)

    def _lead(self, v: Tensor) -> Tensor:
        """Aligned with v from the batch axis on."""
        if v.shape[-1] != self.values.shape[-1]:
            raise ValueError(
                f"a path of {self.values.shape[-1]} by {self.values.shape[-1]} matrices was given a state whose last "
                f"axis, or number of fields, is {v.shape[-1]}"
            )
        values = self.values.to(v.device)
        middle = (1,) * (v.ndim - 2)
        return values if values.ndim == 2 else values.reshape(-1, *middle, *values.shape[-2:])

    def _acted(self, act: Callable[[Tensor], Tensor], x: Tree) -> Any:
        if isinstance(x, Tensor):
            return act(x)
        return dict(zip(x, act(torch.stack(list(x.values()), -1)).unbind(-1), strict=True))

    def _of(self, other: Matrix | float) -> Tensor:
        if isinstance(other, Matrix):
            return other.values
        return other * torch.eye(self.values.shape[-1], dtype=self.values.dtype, device=self.values.device)

    def __add__(self, other: Matrix | float) -> Matrix:
        return Matrix(self.values + self._of(other))

    __radd__ = __add__

    def __sub__(self, other: Matrix | float) -> Matrix:
        return Matrix(self.values - self._of(other))

    def __mul__(self, other: Matrix | float) -> Matrix:
        return Matrix(self.values @ other.values if isinstance(other, Matrix) else self.values * other)

    def __rmul__(self, other: float) -> Matrix:
        return Matrix(self.values * other)
