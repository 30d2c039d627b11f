"""Learning rates by the step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.train import AdamW, Schedule
from kedge.train.schedules import DECAYS


def test_the_courses_at_known_steps() -> None:
    assert [Schedule(4)(step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    linear = Schedule(0, 2, "linear")
    assert [linear(step, 6) for step in range(6)] == [1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    cosine = Schedule(10, 0, "cosine")
    assert cosine(10, 110) == 1.0
    assert cosine(60, 110) == pytest.approx(0.5)
    assert cosine(35, 110) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert cosine(500, 110) == pytest.approx(0.0)
    rsqrt = Schedule(10, 90, "rsqrt")
    assert rsqrt(99, 10**6) == pytest.approx(1.0) == rsqrt(98, 10**6)
    assert rsqrt(399, 10**6) == pytest.approx(0.5)


@given(st.sampled_from(DECAYS), st.integers(1, 50), st.integers(0, 50), st.integers(1, 300))
def test_every_course_rises_to_one_then_never_again(decay: str, warmup: int, hold: int, steps: int) -> None:
    schedule = Schedule(warmup, hold, decay)
    factors = [schedule(step, steps) for step in range(steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    rising, falling = factors[:warmup], factors[warmup - 1 :]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


def test_unknown_courses_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^unknown learning-rate decay 'cosin': choose one of constant, cosine"):
        AdamW(decay="cosin")
    with pytest.raises(ValueError, match=r"^schedule: rsqrt decays from the end of warmup \+ hold"):
        Schedule(0, 0, "rsqrt")
    with pytest.raises(ValueError, match=r"^schedule: warmup and hold count steps, got -1 and 0$"):
        Schedule(-1)
