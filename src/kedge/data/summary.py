"""What a set of trajectories holds, at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kedge.data.moments import Moments, moments
from kedge.data.trajectories import Trajectories


@dataclass(frozen=True)
class Range:
    """One dimension of a column; of its finite numbers."""

    column: str
    dimension: int
    low: float | None
    high: float | None
    mean: float | None
    std: float | None


@dataclass(frozen=True)
class Lengths:
    """Of the episodes, in steps."""

    shortest: int
    median: float
    longest: int


@dataclass(frozen=True)
class Summary:
    """What a set of trajectories holds."""

    steps: int
    episodes: int
    lengths: Lengths
    columns: Mapping[str, str]
    """Each column's type and shape of a row."""
    ranges: tuple[Range, ...]
    rewarded: float | None
    """The share of steps with a positive reward; None where no rewards were noted."""
    successful: float | None
    """The share of episodes with such a step."""
    nonfinite: Mapping[str, int]
    """How many numbers of a column are infinite or nan, where there are any."""
    provenance: Mapping[str, Any]
    digest: str

    def lines(self) -> list[tuple[str, str]]:
        """Rows of a name and what is to be said of it."""
        lengths = f"{self.lengths.shortest:,} to {self.lengths.longest:,} steps, median {self.lengths.median:,g}"
        rows = [("steps", f"{self.steps:,}"), ("episodes", f"{self.episodes:,}"), ("lengths", lengths)]
        rows += [(f"column {name}", said) for name, said in self.columns.items()]
        rows += [(f"{r.column}[{r.dimension}]", _range(r)) for r in self.ranges]
        if self.rewarded is None or self.successful is None:
            rows.append(("rewards", "none noted"))
        else:
            rows.append(("rewarded", f"{self.rewarded:.2%} of steps, {self.successful:.2%} of episodes"))
        bad = ", ".join(f"{count:,} in {name}" for name, count in self.nonfinite.items())
        rows.append(("infinite or nan", bad or "none"))
        rows += [(f"provenance: {name}", str(said)) for name, said in self.provenance.items()]
        return [*rows, ("digest", self.digest)]

    def json(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        return asdict(self) | {"ranges": [asdict(one) for one in self.ranges]}


def summary(logs: Trajectories) -> Summary:
    """Looks at all of the data once, chunk by chunk."""
    named = {name: moments(values) for name, values in logs.columns.items()}
    shown = [(name, named[name]) for name in ("observations", "actions", "rewards") if name in named]
    lengths = logs.lengths
    rewarded, successful = _rewarded(logs) if logs.rewarded else (None, None)
    return Summary(
        steps=len(logs),
        episodes=len(logs.ends),
        lengths=Lengths(int(lengths.min()), float(np.median(lengths)), int(lengths.max())),
        columns={name: _described(values) for name, values in logs.columns.items()},
        ranges=tuple(one for name, found in shown for one in _ranges(name, found)),
        rewarded=rewarded,
        successful=successful,
        nonfinite={name: found.nonfinite for name, found in named.items() if found.nonfinite},
        provenance=dict(logs.provenance),
        digest=logs.digest,
    )


def _rewarded(logs: Trajectories) -> tuple[float, float]:
    count, begin = 0, 0
    episodes = np.zeros(len(logs.ends), bool)
    for chunk in logs.chunks():
        steps = begin + np.flatnonzero(chunk["rewards"] > 0)
        count, begin = count + len(steps), begin + len(chunk["rewards"])
        episodes[np.searchsorted(logs.ends, steps, "right")] = True
    return count / len(logs), float(episodes.mean())


def _described(values: np.ndarray) -> str:
    shape = " x ".join(map(str, values.shape[1:]))
    return f"{values.dtype}" + (f", {shape} a step" if shape else ", one a step")


def _ranges(name: str, found: Moments) -> list[Range]:
    known = [
        (found.low[d], found.high[d], found.mean[d], found.std[d]) if found.count[d] else (None,) * 4
        for d in range(len(found.count))
    ]
    return [Range(name, d, *(None if n is None else float(n) for n in four)) for d, four in enumerate(known)]


def _range(r: Range) -> str:
    if r.low is None:
        return "no finite number"
    return f"{r.low:.4g} to {r.high:.4g}, mean {r.mean:.4g}, deviation {r.std:.4g}"
