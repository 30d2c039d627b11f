"""What every guide is: a rule that changes a denoiser, and a way to apply it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

from kedge.denoise import Estimate, Estimator, Wrapped
from kedge.elementary import Level
from kedge.tree import Tree


class Guide(ABC):
    """A rule for `kedge.denoise.Wrapped`. A new one is a frozen dataclass with `__call__`."""

    @abstractmethod
    def __call__(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
        """The changed estimate at x_t."""

    @final
    def on(self, denoiser: Any) -> Wrapped:
        """The guided denoiser: it goes wherever `denoiser` goes, and may be guided again."""
        return Wrapped(denoiser, self)
