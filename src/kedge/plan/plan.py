"""What planning returns: candidate trajectories, what each is worth, and which was chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Plan:
    """N candidates for each of B situations.

    states:     `[B, N, H, S]` in the data's own units, H points `stride` steps apart, the first where we are
    values:     `[B, N]` what the critic says of each
    feasible:   `[B, N]` the share of each candidate that lies where logged behaviour has been; 1 where nothing tells
    best:       `[B]` the candidate that is followed
    stride:     steps from one point to the next
    crossings:  `[B, N]` how many segments of each cross a place that is barred; 0 where nothing is
    xi:         `[B, N]` how far each is from what the agent is steered to; None for one that is not
    frames:     (noise scale, the estimates `[B, K, H, S]` at that noise), noisiest first, if they were asked for: of
                the K candidates that came from pure noise
    """

    states: Float[np.ndarray, "b n h s"]
    values: Float[np.ndarray, "b n"]
    feasible: Float[np.ndarray, "b n"]
    best: Int[np.ndarray, " b"]
    stride: int
    crossings: Int[np.ndarray, "b n"] = field(default_factory=lambda: np.zeros((0, 0), int), repr=False)
    xi: Float[np.ndarray, "b n"] | None = None
    frames: list[tuple[float, Float[np.ndarray, "b k h s"]]] = field(default_factory=list, repr=False)

    @property
    def trajectory(self) -> Float[np.ndarray, "b h s"]:
        """The chosen candidate of each situation."""
        return self.states[np.arange(len(self.best)), self.best]

    @property
    def value(self) -> Float[np.ndarray, " b"]:
        """What the critic says of the chosen ones."""
        return self.values[np.arange(len(self.best)), self.best]

    def largest_step(self, dims: tuple[int, ...] = (0, 1)) -> Float[np.ndarray, "b n"]:
        """The largest distance along one axis between neighbouring points of each candidate."""
        return np.abs(np.diff(self.states[..., list(dims)], axis=2)).max((-2, -1))

    def plot(self, maze: Any = None, ax: Any = None, index: int = 0) -> Any:
        """Draws the candidates of one situation by value and the chosen one, in the maze if there is one."""
        from kedge.plan.drawing import draw_plan

        return draw_plan(self, maze=maze, ax=ax, index=index)
