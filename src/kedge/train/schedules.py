"""Learning rates as pure functions of the step: there is nothing to save."""

from __future__ import annotations

import math
from dataclasses import dataclass

DECAYS = ("constant", "cosine", "linear", "rsqrt")


@dataclass(frozen=True)
class Schedule:
    """A linear rise over `warmup` steps, `hold` steps at the full rate, then a decay.

    With p the share of the remaining steps that is done: `constant` 1; `linear` 1 - p; `cosine` (1 + cos(pi p)) / 2;
    `rsqrt` sqrt((warmup + hold) / step), which needs no end (Vaswani et al., 2017, eq. 3).
    """

    warmup: int = 0
    hold: int = 0
    decay: str = "constant"

    def __post_init__(self) -> None:
        if self.decay not in DECAYS:
            raise ValueError(f"unknown learning-rate decay {self.decay!r}: choose one of {', '.join(DECAYS)}")
        if self.warmup < 0 or self.hold < 0:
            raise ValueError(f"schedule: warmup and hold count steps, got {self.warmup} and {self.hold}")
        if self.decay == "rsqrt" and self.warmup + self.hold == 0:
            raise ValueError("schedule: rsqrt decays from the end of warmup + hold, which must be at least 1 step")

    def __call__(self, step: int, steps: int) -> float:
        """The factor on the learning rate at `step` (counted from 0) of a run of `steps`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        start = self.warmup + self.hold
        if step < start or self.decay == "constant":
            return 1.0
        if self.decay == "rsqrt":
            return math.sqrt(start / (step + 1))
        p = min((step - start) / max(steps - start, 1), 1.0)
        return 1.0 - p if self.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * p))
