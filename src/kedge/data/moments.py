"""Mean, spread and range of every dimension, in one pass over chunks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from kedge.data.columns import at_once


@dataclass(frozen=True)
class Moments:
    """Of the finite numbers in each dimension."""

    count: Int64[np.ndarray, " d"]
    mean: Float64[np.ndarray, " d"]
    squares: Float64[np.ndarray, " d"]
    """The sum of squared deviations from the mean."""
    low: Float64[np.ndarray, " d"]
    high: Float64[np.ndarray, " d"]
    nonfinite: int

    @property
    def std(self) -> Float64[np.ndarray, " d"]:
        """The population's standard deviation."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))

    @property
    def constant(self) -> np.ndarray:
        """Dimensions that do not vary: their range is below a millionth of their largest size, which float32 cannot
        tell from rounding.
        """
        size = np.maximum(np.abs(self.low), np.abs(self.high))
        return ~(self.high - self.low > 1e-6 * size)

    def merged(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub and LeVeque 1979): means and squares of two parts, without loss of digits."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        gap = other.mean - self.mean
        return Moments(
            count,
            self.mean + gap * share,
            self.squares + other.squares + gap**2 * self.count * share,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.nonfinite + other.nonfinite,
        )


def moments(values: np.ndarray, chunk: int | None = None) -> Moments:
    """Of a column `[N, D]` or `[N]`, in float64; what is mapped from disk is read a chunk of steps at a time."""
    total: Moments | None = None
    chunk = at_once(values) if chunk is None else chunk
    for begin in range(0, len(values), chunk):
        rows = values[begin : begin + chunk]
        part = _moments(np.asarray(rows, np.float64).reshape(len(rows), -1))
        total = part if total is None else total.merged(part)
    if total is None:
        raise ValueError("moments of no steps at all")
    return total


def _moments(rows: np.ndarray) -> Moments:
    """Of rows in memory."""
    finite = np.isfinite(rows)
    count = finite.sum(0)
    known = np.where(finite, rows, 0.0)
    mean = known.sum(0) / np.maximum(count, 1)
    squares = np.where(finite, (known - mean) ** 2, 0.0).sum(0)
    low = np.where(finite, rows, np.inf).min(0)
    high = np.where(finite, rows, -np.inf).max(0)
    return Moments(count, mean, squares, low, high, int((~finite).sum()))
