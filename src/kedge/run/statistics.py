"""How sure a mean is, and whether a difference is one: bootstrap over training seeds and episodes, paired comparisons
whose unit is the training seed, and corrections for looking at many arms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

FEW = 3
"""With so many training seeds or fewer, a result is indicative: no test over them can be strong."""
ENUMERATED = 20
"""Up to so many training seeds every pattern of signs is counted; above, patterns are drawn."""
CHUNK = 1 << 20
"""Numbers that a bootstrap draws at once, which bounds its memory."""

Samples = Sequence[np.ndarray] | np.ndarray
"""The episodes of each training seed: a row each, or, of one seed, a plain vector."""


@dataclass(frozen=True)
class Interval:
    """A mean and where it may lie, over `seeds` training seeds and `episodes` episodes in all."""

    mean: float
    low: float
    high: float
    level: float
    seeds: int
    episodes: int
    same_starts: bool = False

    @property
    def indicative(self) -> bool:
        """Whether there are too few training seeds for more than an indication."""
        return self.seeds <= FEW

    @property
    def over(self) -> str:
        """What was resampled, in words."""
        if self.seeds == 1:
            return "episodes of one training seed"
        return "training seeds and the starts that they share" if self.same_starts else "training seeds, then episodes"

    def json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self) | {"over": self.over, "indicative": self.indicative}

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


def interval(
    values: Samples, *, same_starts: bool = False, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """The mean over training seeds of their mean over episodes, with a percentile bootstrap interval.

    Two stages: draw as many training seeds as there are, with replacement; then, within each one drawn, as many
    episodes as it has. With one training seed the second stage is all there is, and says nothing of other trainings.

    With `same_starts` the k-th episodes of all seeds began alike. What is easy about a start is then common to all of
    them and does not average out over seeds: seeds and starts are drawn each by themselves, one set of starts for all
    (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics, 2007).
    """
    rows = rows_of(values, "interval")
    crossed = same_starts and len(rows) > 1
    if crossed and len({len(row) for row in rows}) > 1:
        raise ValueError("interval: seeds that share their starts have as many episodes each")
    rng = np.random.default_rng(seed)
    means = _crossed(np.stack(rows), draws, rng) if crossed else _resampled(rows, draws, rng)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = float(np.mean([row.mean() for row in rows]))
    return Interval(mean, float(low), float(high), level, len(rows), sum(map(len, rows)), crossed)


def rows_of(values: Samples, where: str) -> list[np.ndarray]:
    """The episodes of each training seed as float64, checked."""
    rows = [values] if isinstance(values, np.ndarray) and values.ndim == 1 else list(values)
    rows = [np.asarray(row, dtype=np.float64) for row in rows]
    if not rows or any(row.ndim != 1 or not len(row) for row in rows):
        raise ValueError(f"{where}: give a vector of episodes for each training seed, none of them empty")
    if bad := sum(int((~np.isfinite(row)).sum()) for row in rows):
        raise ValueError(f"{where}: {bad} of the values are not finite")
    return rows


def _resampled(rows: list[np.ndarray], draws: int, rng: np.random.Generator) -> Float[np.ndarray, " draws"]:
    """The two stages, `draws` times."""
    chosen = rng.integers(len(rows), size=(draws, len(rows)))
    means = np.empty(chosen.shape)
    for index, row in enumerate(rows):
        places = chosen == index
        means[places] = _episode_means(row, int(places.sum()), rng)
    return means.mean(1)


def _crossed(
    values: Float[np.ndarray, "seeds starts"], draws: int, rng: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """Seeds and starts drawn each by themselves, `draws` times: `sum_se n_s m_e x_se / (S E)`, counts n and m."""
    seeds, starts = values.shape
    size = max(1, CHUNK // starts)
    means = []
    for done in range(0, draws, size):
        count = min(size, draws - done)
        n = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
        m = rng.multinomial(starts, np.full(starts, 1 / starts), size=count)
        means.append(((n @ values) * m).sum(1) / values.size)
    return np.concatenate(means)


def _episode_means(row: np.ndarray, draws: int, rng: np.random.Generator) -> Float[np.ndarray, " draws"]:
    """Means of as many episodes as there are, drawn with replacement."""
    size = max(1, CHUNK // len(row))
    chunks = [
        row[rng.integers(len(row), size=(min(size, draws - done), len(row)))].mean(1) for done in range(0, draws, size)
    ]
    return np.concatenate(chunks) if chunks else np.empty(0)


@dataclass(frozen=True)
class Paired:
    """What one arm has over the other. `by_seed` holds the mean difference of each training seed, the unit here.

    `difference` is the mean with its bootstrap interval, `t` the interval that assumes normal differences between
    training seeds (None with one), `p` the two-sided sign-flip test over training seeds.
    """

    difference: Interval
    t: tuple[float, float] | None
    p: float
    exact: bool
    by_seed: Float[np.ndarray, " seeds"]

    @property
    def indicative(self) -> bool:
        """Whether there are too few training seeds for more than an indication."""
        return self.difference.indicative

    @property
    def smallest_p(self) -> float:
        """The least that the test can give with so many training seeds: 2 patterns of 2^seeds."""
        return 2.0 ** (1 - len(self.by_seed))

    def json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "difference": self.difference.json(),
            "t_interval": self.t,
            "p": self.p,
            "p_is_exact": self.exact,
            "smallest_p": self.smallest_p,
            "by_seed": self.by_seed.tolist(),
            "indicative": self.indicative,
        }


def paired(
    a: Samples, b: Samples, *, same_starts: bool = False, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Paired:
    """`a - b`, where row and place name the same training seed and the same start in both. `same_starts`: see
    `interval`. The test and Student's t are over training seeds: they say nothing of other starts.
    """
    one, other = rows_of(a, "paired"), rows_of(b, "paired")
    if [len(row) for row in one] != [len(row) for row in other]:
        raise ValueError("paired: both arms need the same training seeds and the same starts")
    differences = [x - y for x, y in zip(one, other, strict=True)]
    by_seed = np.array([row.mean() for row in differences])
    p, exact = sign_flip(by_seed, seed=seed)
    t = t_interval(by_seed, level) if len(by_seed) > 1 else None
    difference = interval(differences, same_starts=same_starts, level=level, draws=draws, seed=seed)
    return Paired(difference, t, p, exact, by_seed)


def sign_flip(differences: Float[np.ndarray, " seeds"], *, draws: int = 200_000, seed: int = 0) -> tuple[float, bool]:
    """P-value of "positive and negative are equally likely", two-sided, and whether every pattern was counted.

    The share of the patterns of signs whose sum is as far from zero as the one seen. Above `ENUMERATED` differences,
    patterns are drawn, and the one seen counts among them.
    """
    d = np.asarray(differences, dtype=np.float64)
    seen = abs(d.sum()) - 1e-12 * np.abs(d).sum()  # patterns that tie in exact arithmetic tie here too
    if len(d) <= ENUMERATED:
        sums = np.zeros(1)
        for value in d:
            sums = np.concatenate([sums + value, sums - value])
        return float((np.abs(sums) >= seen).mean()), True
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK // len(d))
    extreme = 0
    for done in range(0, draws, size):
        signs = rng.integers(2, size=(min(size, draws - done), len(d))) * 2 - 1
        extreme += int((np.abs(signs @ d) >= seen).sum())
    return (extreme + 1) / (draws + 1), False


def t_interval(values: Float[np.ndarray, " n"], level: float = 0.95) -> tuple[float, float]:
    """Student's interval for the mean of two values or more."""
    n = len(values)
    if n < 2:
        raise ValueError(f"t_interval: two values or more are needed, got {n}")
    half = student(level, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return float(values.mean()) - half, float(values.mean()) + half


def student(level: float, freedom: int) -> float:
    """The t that a Student variable of `freedom` degrees stays within with probability `level`; by bisection."""
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _inside(theta: float, freedom: int) -> float:
    """`P(|T| < sqrt(freedom) tan(theta))`: the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0
    for j in range(1, freedom // 2 + 1):
        total += term
        term *= math.cos(theta) ** 2 * ((2 * j) / (2 * j + 1) if odd else (2 * j - 1) / (2 * j))
    return 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for their number m: the k-th smallest times m - k + 1, at least the one before, at most 1."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected.tolist()


def steps_to_level(
    steps: Sequence[int | float] | np.ndarray, scores: Sequence[int | float] | np.ndarray, share: float = 0.9
) -> float:
    """Steps after which a learning curve first stands at `share` of its final level, straight between checkpoints.

    The level counts from 0, a score's own zero, so a curve that ends at 0 or below has none.
    """
    if len(steps) != len(scores) or not len(steps) or np.any(np.diff(steps) <= 0):
        raise ValueError("steps_to_level: give rising steps, one or more, and a score for each")
    goal = share * scores[-1]
    if scores[-1] <= 0 or not np.all(np.isfinite(scores)):
        raise ValueError("steps_to_level: the scores must be finite and the last of them above 0")
    first = next(i for i, score in enumerate(scores) if score >= goal)
    if first == 0:
        return float(steps[0])
    part = (goal - scores[first - 1]) / (scores[first] - scores[first - 1])
    return float(steps[first - 1] + part * (steps[first] - steps[first - 1]))
