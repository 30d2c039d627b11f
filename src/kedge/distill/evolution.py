"""The best of what has been tried are parents of what is tried next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

Kind = TypeVar("Kind")
Tried = list[tuple[Kind, float]]
"""What has been tried, in order, and its score: less is better."""


def evolve(
    score: Callable[[Kind], float],
    begun: Sequence[Kind],
    breed: Callable[[list[Kind], int, Tried[Kind]], Sequence[Kind]],
    tries: int,
    kept: int,
) -> Tried[Kind]:
    """Tries what is begun with, then children of the best `kept` so far, as many at a time.

    Args:
        score: less is better.
        begun: what is tried first.
        breed: so many children of the parents, best first; it is shown all that was tried, too. None ends the search.
        tries: how often `score` is called, at most.
        kept: parents, and children in a generation.
    """
    tried = [(one, score(one)) for one in begun[:tries]]
    while len(tried) < tries:
        parents = [one for one, _ in sorted(tried, key=worth)[:kept]]
        children = breed(parents, min(kept, tries - len(tried)), tried)
        if not children:
            break
        tried += [(child, score(child)) for child in children]
    return tried


def worth(one: tuple[Any, float]) -> float:
    """A score to sort by: what is not finite comes last."""
    return one[1] if math.isfinite(one[1]) else math.inf


def crossed(rng: np.random.Generator, one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    """One up to a place, the other from there on."""
    at = int(rng.integers(len(one) + 1))
    return one[:at] + other[at:]
