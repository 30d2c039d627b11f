"""Intervals, paired tests and corrections, against theory, scipy and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from kedge.run import statistics as room
from kedge.run.statistics import holm, interval, paired, sign_flip, steps_to_level, student, t_interval

NUMBERS = st.lists(st.floats(-100, 100, width=16), min_size=1, max_size=8)


def test_one_seeds_interval_is_the_means_standard_error() -> None:
    """Of 400 normal values the ends lie at 1.96 s.e.; 10,000 draws find them to .027 s.e.; 4.5 times it is allowed."""
    values = np.random.default_rng(0).normal(3, 2, 400)
    error = values.std() / 20
    found = interval(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.12 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.12 * error)
    assert (found.seeds, found.episodes) == (1, 400)
    wide = interval(values, level=0.5)
    assert wide.high - wide.low == pytest.approx(2 * 0.674 * error, rel=0.1)


@pytest.mark.parametrize(("between", "within"), [(3.0, 0.1), (0.0, 3.0), (1.0, 3.0)])
def test_both_stages_are_resampled(between: float, within: float) -> None:
    """The bootstrap's variance is (variance of the seeds' means + mean variance within / episodes) / seeds, exactly.

    Measured by 20,000 draws it has a relative error of 1%; 4.5 times that is allowed.
    """
    rng = np.random.default_rng(1)
    rows = list(rng.normal(rng.normal(0, between, (6, 1)), within, (6, 30)))
    means = room._resampled(rows, 20_000, np.random.default_rng(2))
    exact = (np.var([row.mean() for row in rows]) + np.mean([row.var() for row in rows]) / 30) / 6
    assert means.var() == pytest.approx(exact, rel=0.045)


def test_starts_that_seeds_share_do_not_average_out() -> None:
    """The pigeonhole bootstrap's variance over a table `x_se` is exact: with row means r, column means c and the grand
    mean g, it is `var(r) / S + var(c) / E + (mean of (x - r - c + g)^2) / (S E)`.
    """
    rng = np.random.default_rng(1)
    rows = np.array([[-1.0], [0.0], [1.0]]) + rng.normal(0, 4, (1, 40)) + rng.normal(0, 1, (3, 40))
    r, c = rows.mean(1, keepdims=True), rows.mean(0, keepdims=True)
    rest = ((rows - r - c + rows.mean()) ** 2).mean()
    exact = r.var() / 3 + c.var() / 40 + rest / 120
    means = room._crossed(rows, 20_000, np.random.default_rng(2))
    assert means.mean() == pytest.approx(rows.mean(), abs=4.5 * np.sqrt(exact / 20_000))
    assert means.var() == pytest.approx(exact, rel=0.045)
    shared, apart = interval(rows, same_starts=True), interval(rows)
    assert shared.high - shared.low > 1.3 * (apart.high - apart.low)
    assert shared.over == "training seeds and the starts that they share"
    assert interval(rows[0], same_starts=True) == interval(rows[0])
    with pytest.raises(ValueError, match="as many episodes each"):
        interval([rows[0], rows[1][:7]], same_starts=True)


def test_chunks_change_no_law_of_shared_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 50))
    monkeypatch.setattr(room, "CHUNK", 120)
    means = room._crossed(rows, 4001, np.random.default_rng(0))
    assert means.shape == (4001,)
    assert means.std() == pytest.approx(room._crossed(rows, 20_000, np.random.default_rng(1)).std(), rel=0.06)


def test_seeds_count_the_same_whatever_they_ran() -> None:
    found = interval([np.full(10, 1.0), np.full(1000, 3.0)])
    assert found.mean == 2
    assert (found.low, found.high) == (1, 3)
    assert (found.seeds, found.episodes) == (2, 1010)


def coverage(simulations: int, draws: int) -> float:
    """How often the interval over 20 training seeds (sd 1) of 20 episodes each (sd 1) holds the truth."""
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(simulations):
        rows = rng.normal(rng.normal(0, 1, (20, 1)), 1, (20, 20))
        found = interval(rows, draws=draws, seed=seed)
        hits += found.low <= 0 <= found.high
    return hits / simulations


def expected_coverage() -> float:
    """Of the percentile interval: it reaches 1.96 sqrt((S - 1) / S + within) s.e. where Student's t of S - 1 applies.

    The part within seeds, counted twice, is 1/20 of the 1 + 1/20 of a seed's mean.
    """
    reach = 1.96 * np.sqrt(19 / 20 + (1 / 20) / (1 + 1 / 20))
    return float(1 - 2 * scipy.stats.t.sf(reach, 19))


def test_the_interval_holds_the_truth_as_often_as_theory_says() -> None:
    """250 simulations: a standard error of .016; four of them."""
    assert coverage(250, 600) == pytest.approx(expected_coverage(), abs=0.064)


@pytest.mark.slow
def test_the_interval_holds_the_truth_as_often_as_theory_says_closely() -> None:
    """4,000 simulations: a standard error of .004; three of them, and .004 for what the theory leaves out."""
    assert coverage(4000, 1000) == pytest.approx(expected_coverage(), abs=0.016)


@given(NUMBERS, st.floats(-50, 50, width=16), st.sampled_from([0.5, 2.0, 4.0]))
def test_intervals_move_and_stretch_with_the_values(numbers: list[float], by: float, scale: float) -> None:
    values = np.array([numbers, numbers[::-1]])
    here, there = interval(values, draws=200), interval(scale * values + by, draws=200)
    for end in ("mean", "low", "high"):
        assert getattr(there, end) == pytest.approx(scale * getattr(here, end) + by, abs=1e-9)
    assert here.low <= here.mean + 1e-9
    assert here.mean <= here.high + 1e-9


def test_intervals_are_a_function_of_their_seed() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_chunks_bound_the_memory_and_change_no_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard errors by chunks of a few draws: relative error of an sd from 4,000 draws 1.1%, 4.5 times that."""
    values = np.random.default_rng(0).normal(size=50)
    monkeypatch.setattr(room, "CHUNK", 120)
    means = room._episode_means(values, 4001, np.random.default_rng(0))
    assert means.shape == (4001,)
    assert means.std() == pytest.approx(values.std() / np.sqrt(50), rel=0.05)


def test_few_seeds_are_indicative_and_say_what_was_resampled() -> None:
    assert interval(np.ones((3, 5))).indicative
    assert not interval(np.ones((4, 5))).indicative
    assert paired(np.ones((3, 5)), np.zeros((3, 5))).indicative
    assert interval(np.ones(5)).over == "episodes of one training seed"
    assert interval(np.ones((2, 5))).json()["over"] == "training seeds, then episodes"
    assert str(interval(np.ones(5))) == "1.0 [1.0, 1.0]"


def test_a_difference_is_paired_by_seed_and_start() -> None:
    """Starts differ by 100s and seeds by 10s; what the arms differ by is 1, 2, ..., 5."""
    starts = np.arange(8) * 100.0
    b = starts + 10 * np.arange(5)[:, None]
    a = b + np.arange(1, 6)[:, None]
    found = paired(a, b)
    assert found.by_seed.tolist() == [1, 2, 3, 4, 5]
    assert found.difference.mean == 3
    assert 1 < found.difference.low < 2.5
    assert 3.5 < found.difference.high < 5
    assert found.t == pytest.approx(scipy.stats.t.interval(0.95, 4, 3, scipy.stats.sem([1, 2, 3, 4, 5])))
    assert (found.p, found.smallest_p, found.exact) == (2 / 32, 2 / 32, True)
    other = paired(b, a)
    assert other.difference.mean == -3
    assert other.p == found.p


def test_with_one_seed_there_is_an_interval_over_episodes_and_no_test() -> None:
    found = paired(np.arange(10.0), np.zeros(10))
    assert found.t is None
    assert found.p == found.smallest_p == 1
    assert found.json()["t_interval"] is None
    assert found.difference.low < 4.5 < found.difference.high


@given(NUMBERS)
def test_sign_flips_are_counted_exactly(differences: list[float]) -> None:
    d = np.array(differences, dtype=np.float64)
    signs = np.array(list(itertools.product([1, -1], repeat=len(d))))
    exact = np.mean(np.abs(signs @ d) >= abs(d.sum()) - 1e-9)
    p, counted = sign_flip(d)
    assert counted
    assert p == pytest.approx(exact)
    assert sign_flip(-d)[0] == p


def test_drawn_sign_flips_agree_with_counted_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 draws: a standard error of .003 at p near .2; 4.5 of them. A p-value that is drawn is never 0."""
    d = np.random.default_rng(5).normal(0.4, 1, 12)
    exact, _ = sign_flip(d)
    monkeypatch.setattr(room, "ENUMERATED", 3)
    drawn, counted = sign_flip(d, draws=20_000)
    assert not counted
    assert 0.05 < exact < 0.6
    assert drawn == pytest.approx(exact, abs=0.0135)
    assert sign_flip(np.ones(60), draws=1000)[0] == 1 / 1001


@given(st.integers(1, 60), st.floats(0.01, 0.999))
def test_students_quantile_is_scipys(freedom: int, level: float) -> None:
    assert student(level, freedom) == pytest.approx(scipy.stats.t.ppf((1 + level) / 2, freedom), rel=1e-9)


def test_holm_by_hand() -> None:
    """.005 x 4, .01 x 3, .03 x 2, and .04 x 1, which may not fall below the .06 before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_steps_to_a_share_of_the_final_level() -> None:
    """90% of 100 is met halfway between 80 at 2,000 steps and 100 at 3,000."""
    assert steps_to_level([1000, 2000, 3000, 4000], [50, 80, 100, 100]) == 2500
    assert steps_to_level([1000, 2000], [95, 100]) == 1000
    assert steps_to_level([1, 2, 3], [0, 120, 100]) == pytest.approx(1 + 90 / 120)  # first, whatever comes after
    assert steps_to_level([1, 2], [0, 100], share=0.5) == 1.5


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: interval(np.array([])), "none of them empty"),
        (lambda: interval([]), "none of them empty"),
        (lambda: interval(np.array([1.0, np.nan, np.inf])), "2 of the values are not finite"),
        (lambda: paired(np.ones((2, 3)), np.ones((2, 4))), "the same training seeds and the same starts"),
        (lambda: paired(np.ones((2, 3)), np.ones((3, 3))), "the same training seeds and the same starts"),
        (lambda: t_interval(np.ones(1)), "two values or more are needed, got 1"),
        (lambda: steps_to_level([1, 1], [1, 2]), "rising steps"),
        (lambda: steps_to_level([1, 2], [1]), "rising steps"),
        (lambda: steps_to_level([1, 2], [1, 0]), "the last of them above 0"),
        (lambda: steps_to_level([1, 2], [np.nan, 3]), "finite"),
    ],
)
def test_bad_input_is_refused_in_one_line(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()  # pyright: ignore[reportCallIssue]
