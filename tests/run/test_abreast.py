"""Work that several processes share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kedge.run import abreast
from kedge.run.abreast import all_done, cores
from kedge.run.evaluate import evaluate
from run.line import Line, Walker
from run.pieces import Slow


def test_alone_all_is_done_here_in_order(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = all_done(Slow(tmp_path), [4, 5], 3, 1, lambda done, total: seen.append((done, total)))
    assert found == [(4, os.getpid()), (5, os.getpid())]
    assert seen == [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]
    assert all_done(Slow(tmp_path), [6], 3, 8, None) == [(6, os.getpid())]  # nothing to share


def test_processes_give_the_same_in_order_and_say_how_far_they_are(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = all_done(Slow(tmp_path, pause=0.05), [7, 8, 9], 3, 2, lambda done, total: seen.append((done, total)))
    assert [piece for piece, _ in found] == [7, 8, 9]
    assert os.getpid() not in {process for _, process in found}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (9, 9)


def test_a_failure_is_told_and_stops_the_others(tmp_path: Path) -> None:
    begun = time.perf_counter()
    with pytest.raises(LookupError, match="piece 1 is lost"):
        all_done(Slow(tmp_path, steps=100, pause=0.1, fails=1), [0, 1, 2], 100, 2, None)
    assert time.perf_counter() - begun < 9  # of 10 that a piece would take
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from kedge.run.abreast import all_done
from run.pieces import Slow

def told(done, total):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    all_done(Slow(Path(sys.argv[2]), steps=600, pause=0.1), [0, 1], 600, 2, told)
"""


def test_none_is_left_behind_where_the_first_process_was_killed(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    tests = str(Path(__file__).parents[1])
    # The others hold its standard output open as long as they are there.
    command = [sys.executable, str(tmp_path / "killed.py"), tests, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_an_interrupt_stops_them_too(tmp_path: Path) -> None:
    def tired(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        all_done(Slow(tmp_path, steps=600, pause=0.1), [0, 1], 600, 2, tired)
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_does_not_depend_on_how_many_share_it() -> None:
    alone, shared = (evaluate(Walker(every=4), Line(), 7, first_seed=100, jobs=jobs) for jobs in (1, 2))
    for column in ("seeds", "solved_at", "latched", "raw", "latched_score", "positions"):
        np.testing.assert_array_equal(getattr(alone, column), getattr(shared, column))
    assert alone.planning.plans == shared.planning.plans
    assert [plan.episodes.tolist() for plan in shared.plans_of(5)] == [[5]] * len(alone.plans_of(5))


def test_cores_are_those_that_this_process_may_use() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    assert abreast.PATIENCE < 1
