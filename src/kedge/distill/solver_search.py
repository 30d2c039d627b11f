"""Solver schedules: where each step of a walk stops and how it is made, searched for a denoiser by evolution."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kedge.disk import read_json
from kedge.distill.evolution import Tried, crossed, evolve, worth
from kedge.paths.gaussian import GaussianPath
from kedge.train import AdamW, Batches, Part, Trainer
from kedge.walk import sample
from kedge.walk.grids.levels import Levels, down_to_clean
from kedge.walk.solvers.statistics import Statistics
from kedge.walk.solvers.unified import Decision, Unified

CHANCE, CROSSED, MOVED = 0.3, 0.3, 0.5
"""Of a field to be resampled, of a schedule to have two parents, of its levels to be moved."""
SPREADS = 0.08, 0.02
"""Of the moves of levels, in parts of the range of log noise scales; the first is the authors'."""
BEST, SCREENED = 15, 12
"""Parents, as published; candidates that the predictor ranks for each one that is tried."""
DRAWN, FLOOR = 3, 0.1
"""One in so many tries goes to the seeds and to schedules drawn at random, of which the predictor learns what is far
from both; and the least spread of what it reads, lest what hardly varied so far counts for all.
"""


@dataclass(frozen=True)
class SolverSchedule:
    """Noise scales, noisiest first, the clean level after them, and a `Decision` for each step. It is a grid, and says
    its solver: `Walk(denoiser, schedule.solver(), schedule)`.
    """

    scales: tuple[float, ...]
    decisions: tuple[Decision, ...]

    def __post_init__(self) -> None:
        falls = all(a > b > 0 for a, b in pairwise(self.scales))
        if not falls or len(self.decisions) != len(self.scales):
            raise ValueError("SolverSchedule: noise scales fall, above 0, and each has a decision")

    def levels(self, path: GaussianPath) -> Levels:
        """The levels at the noise scales, and the clean one."""
        return down_to_clean(path, self.scales)

    def solver(self, statistics: Statistics | None = None) -> Unified:
        """What makes its steps."""
        return Unified(self.decisions, statistics)

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> SolverSchedule:
        """What was saved."""
        found = read_json(path)
        return cls(tuple(found["scales"]), tuple(Decision(**one) for one in found["decisions"]))


@dataclass(frozen=True)
class SearchedSolvers:
    """The best schedule, all that were tried, in order, with their scores, and what ranks others."""

    best: SolverSchedule
    tried: tuple[tuple[SolverSchedule, float], ...]
    predictor: Callable[[Sequence[SolverSchedule]], np.ndarray] | None


def schedule_error(
    denoiser: Any, x: Tensor, exact: Tensor, statistics: Statistics | None = None
) -> Callable[[SolverSchedule], float]:
    """The root mean square distance of walks from `x` to where they should end."""

    def score(schedule: SolverSchedule) -> float:
        ended = sample(denoiser, x, schedule, schedule.solver(statistics))
        return float((ended - exact).square().mean().sqrt())

    return score


def search_solver(
    score: Callable[[SolverSchedule], float],
    seeds: Sequence[SolverSchedule],
    tries: int = 300,
    *,
    fitted: bool = False,
    predictor: bool = True,
    seed: int = 0,
) -> SearchedSolvers:
    """The schedule of the least score that evolution finds: parents are the best so far, a child mixes one or two of
    them and changes levels and decisions here and there. With a `predictor`, a small network that learns from all tried
    so far which of two schedules is better, many children are ranked and only the best are tried.

    Liu et al., "A unified sampling framework for solver searching of diffusion probabilistic models", ICLR 2024.

    Args:
        score: less is better, and above 0; `schedule_error`, or anything else.
        seeds: known solvers to begin with, all of as many steps; random schedules join them. The first and the last
            noise scale stay theirs.
        tries: how often `score` is called.
        fitted: whether steps may predict what statistics leave; `score` has to know them then.
        predictor: False tries every child.
        seed: of all that is drawn.
    """
    rng = np.random.default_rng(seed)
    begun = [*seeds, *random_schedules(seeds, max(tries // DRAWN - len(seeds), 0), fitted=fitted, seed=seed)]
    ranker: _Ranker | None = None

    def breed(parents: list[SolverSchedule], few: int, tried: Tried[SolverSchedule]) -> list[SolverSchedule]:
        nonlocal ranker
        if predictor and len(tried) >= 2 * BEST:
            ranker = _Ranker(tried, seed + len(tried))
        children = [_child(rng, parents, fitted) for _ in range(few * (SCREENED if ranker else 1))]
        return children if ranker is None else [children[i] for i in np.argsort(ranker(children))[:few]]

    tried = evolve(score, begun, breed, tries, BEST)
    return SearchedSolvers(min(tried, key=worth)[0], tuple(tried), ranker)


def random_schedules(
    seeds: Sequence[SolverSchedule], n: int, *, fitted: bool = False, seed: int = 0
) -> list[SolverSchedule]:
    """Schedules without a choice among them: every field drawn, levels moved from those of the seeds."""
    rng = np.random.default_rng(seed)
    found = list[SolverSchedule]()
    for _ in range(n):
        parent = seeds[int(rng.integers(len(seeds)))]
        found.append(SolverSchedule(_moved(rng, parent.scales), tuple(_drawn(rng, fitted) for _ in parent.decisions)))
    return found


def _child(rng: np.random.Generator, parents: Sequence[SolverSchedule], fitted: bool) -> SolverSchedule:
    mine = parents[int(rng.integers(len(parents)))]
    scales, decisions = mine.scales, mine.decisions
    if rng.random() < CROSSED:
        other = parents[int(rng.integers(len(parents)))]
        decisions = crossed(rng, decisions, other.decisions)
        part = rng.random()
        scales = tuple(a**part * b ** (1 - part) for a, b in zip(scales, other.scales, strict=True))
    if rng.random() < MOVED:
        scales = _moved(rng, scales)
    return SolverSchedule(
        scales, tuple(_changed(rng, one, fitted) if rng.random() < CHANCE else one for one in decisions)
    )


def _moved(rng: np.random.Generator, scales: tuple[float, ...]) -> tuple[float, ...]:
    """Other levels between the first and the last, which stay."""
    log = np.log(scales)
    inner = log[1:-1] + rng.choice(SPREADS) * (log[0] - log[-1]) * rng.standard_normal(len(log) - 2)
    inner = np.sort(inner.clip(log[-1] + 1e-3, log[0] - 1e-3))[::-1]
    moved = (float(scales[0]), *np.exp(inner).tolist(), float(scales[-1]))
    return moved if all(a > b for a, b in pairwise(moved)) else scales


def _drawn(rng: np.random.Generator, fitted: bool) -> Decision:
    one = Decision(points=int(rng.choice([1, 2, 3, 4], p=[0.2, 0.4, 0.3, 0.1])))
    for name in _FIELDS:
        one = _field(rng, one, name, fitted)
    return one


def _changed(rng: np.random.Generator, one: Decision, fitted: bool) -> Decision:
    points = int(rng.choice([1, 2, 3, 4], p=[0.2, 0.4, 0.3, 0.1])) if rng.random() < CHANCE else one.points
    one = replace(one, points=points, terms=None if one.terms is None else min(one.terms, points))
    for name in _FIELDS:
        if rng.random() < CHANCE:
            one = _field(rng, one, name, fitted)
    return one


_FIELDS = "terms", "predict", "corrector", "slope", "relax", "powers"


def _field(rng: np.random.Generator, one: Decision, name: str, fitted: bool) -> Decision:
    """The decision with one of its fields drawn anew; `relax` moves from where it is."""
    if name == "terms":
        drawn: Any = None if rng.random() < 0.5 else int(rng.integers(1, one.points + 1))
    elif name == "predict":
        drawn = str(rng.choice(["clean", "eps", "fitted"] if fitted else ["clean", "clean", "eps"]))
    elif name == "corrector":
        drawn = int(rng.choice([0, 0, 1, 2, 3]))
    elif name == "slope":
        drawn = str(rng.choice(["exact", "half", "length"]))
    elif name == "relax":
        drawn = float(one.relax + 0.1 * rng.standard_normal())
    else:
        drawn = bool(rng.random() < 0.3)
    return replace(one, **{name: drawn})


def _described(schedules: Sequence[SolverSchedule]) -> Tensor:
    """Numbers that a network can read: each step's length, and its decision."""
    rows = list[list[float]]()
    for schedule in schedules:
        log = np.log(schedule.scales)
        row = np.concatenate([log[:1] - log[-1:], np.diff(log)]).tolist()
        for d in schedule.decisions:
            row += [d.points == n for n in (1, 2, 3)] + [(d.terms or d.points) / d.points, d.relax, d.powers]
            row += [d.predict == name for name in ("clean", "eps")] + [d.slope == name for name in ("exact", "half")]
            row += [d.corrector == n for n in (0, 1, 2)]
        rows.append([float(value) for value in row])
    return torch.tensor(rows)


class _Ranker:
    """Learns which of two schedules has the lower score: a logistic loss of differences over all pairs in a batch."""

    def __init__(self, tried: Sequence[tuple[SolverSchedule, float]], seed: int) -> None:
        kept = [(schedule, math.log(score)) for schedule, score in tried if math.isfinite(score) and score > 0]
        x, y = _described([schedule for schedule, _ in kept]), torch.tensor([score for _, score in kept])
        self.mean, self.std = x.mean(0), x.std(0) + FLOOR
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Linear(x.shape[1], 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)
            )
        batches = Batches({"x": (x - self.mean) / self.std, "y": y}, min(64, len(y)), seed=seed)
        part = Part(self.net, self._loss, AdamW(3e-3, weight_decay=0.01, warmup=10), shadows=())
        Trainer([part], batches, 150, seed=seed, progress=False).train()

    def _loss(self, batch: Any, tick: Any) -> tuple[Tensor, dict[str, Any]]:
        said, true = self.net(batch["x"])[:, 0], batch["y"]
        worse = (true[:, None] > true[None]).to(said)
        return (worse * nn.functional.softplus(said[None] - said[:, None])).sum() / worse.sum().clamp(min=1), {}

    @torch.no_grad()
    def __call__(self, schedules: Sequence[SolverSchedule]) -> np.ndarray:
        """Lower for what should score lower."""
        return self.net((_described(schedules) - self.mean) / self.std)[:, 0].numpy()
