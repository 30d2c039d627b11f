"""What every guide is: a rule that changes a denoiser, and a way to apply it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, final

from torch import Tensor

from kedge.denoise import Estimate, Estimator, Wrapped
from kedge.elementary import Level
from kedge.tree import Tree


class Guide(ABC):
    """A rule for `kedge.denoise.Wrapped`. A new one is a frozen dataclass with `__call__`."""

    @abstractmethod
    def __call__(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
        """The changed estimate at x_t."""

    def measured(self, undo: Callable[[Tensor], Tensor]) -> Guide:
        """The same rule for a denoiser of normalised data, of which `undo` makes the data's own units. A rule that
        speaks of those units overrides this; whoever normalises calls it.
        """
        return self

    @final
    def on(self, denoiser: Any) -> Wrapped:
        """The guided denoiser: it goes wherever `denoiser` goes, and may be guided again."""
        return Wrapped(denoiser, self)
