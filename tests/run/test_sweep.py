"""`kedge sweep`: the optimum is found, what is killed goes on to the same trials, and bad input is one line."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kedge.errors import InputError
from kedge.recipes import FV
from kedge.run.commands import train as training
from kedge.run.commands.sweep import Sweep as Flags
from kedge.run.commands.train import Train
from kedge.run.sweep import loop, pools
from kedge.run.sweep import trial as one
from kedge.run.sweep.figure import CHOOSING, UnknownColumnError, by
from kedge.run.sweep.results import command, read_rows, read_sweep
from kedge.run.sweep.space import Range, space_of
from kedge.run.sweep.study import JOURNAL, importance, mend
from kedge.run.sweep.trial import Ending, Piece, Watch, carried_out
from kedge.train.checkpoint import CheckpointError, weights_step
from run.program import Run, program
from run.sweeping import KilledError, Known, known, sweep, table

TINY = ("--batch", "4", "--width", "8", "--atlas", "4", "--candidates", "4")
SMALL = ("--env", "maze2d-umaze", "--demonstrations", "2000", *TINY)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for where trials take no time."""
    monkeypatch.setattr(loop, "LOOK", 0.0)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return program(capsys)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations are made once for all."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEDGE_CACHE", str(cache))
    return tmp_path


# What is searched


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ((), "needs something to search over"),
        (("rate",), "write it as field=low:high"),
        (("rate=",), "write it as field=low:high"),
        (("rate=1e-4:1e-2:lin",), "write it as field=low:high"),
        (("lr=1e-4:1e-2:log",), "FV has no field lr; did you mean rate?"),
        (("widht=16,32",), "did you mean width?"),
        (("zzz=1,2",), "its fields are steps, batch"),
        (("rate=1e-2:1e-2",), "the range is empty, for 1e-2 is not below 1e-2"),
        (("rate=0:1:log",), "no logarithm of 0"),
        (("rate=-1:1",), "rate must be positive"),
        (("rate=nan:1",), "nan is not finite"),
        (("rate=fast,slow",), "'fast' is no number"),
        (("width=16.5:32",), "takes whole numbers, and 16.5 is none"),
        (("net=unet,vit",), "'vit' is none of unet, dit, conv"),
        (("net=a:b",), "only numbers have ranges"),
        (("keep=yes,no",), "'yes' is neither true nor false"),
        (("rate=1e-3",), "give --rate 1e-3"),
        (("width=16,16.0",), "stands there twice"),
        (("rate=1e-4:1e-2", "rate=1e-3,1e-2"), "has a range already"),
        (("path=vp,trig",), "vp fits no trial"),
    ],
)
def test_a_range_that_is_none_is_one_line(over: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError) as error:
        space_of(FV(), over)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_ranges_have_the_types_of_their_fields() -> None:
    space = space_of(FV(), ("level-std=1:2", "batch=8:64:log", "mults=1 2,1 2 4", "keep=true,false", "net=unet,dit"))
    assert space["level_std"] == Range(1.0, 2.0, log=False, whole=False)
    assert space["batch"] == Range(8.0, 64.0, log=True, whole=True)
    assert [space[name].ends for name in ("mults", "keep", "net")] == [
        ((1, 2), (1, 2, 4)), (True, False), ("unet", "dit"),
    ]  # fmt: skip
    both = space_of(FV(), ("path=vp,trig", "predict=eps,trig"))  # vp goes with eps: together they can be
    assert set(both) == {"path", "predict"}


# What is chosen by


def test_the_starts_that_choose_are_never_those_that_are_reported() -> None:
    assert by("score", None, 100, 0).sentence.startswith("the latched score on starts 0 to 99")
    for episodes, first in ((500, 1_000_000), (2, 9_999), (0, 0), (5, -1)):
        with pytest.raises(InputError, match="a trial that was chosen by them would look better than it is"):
            by("score", None, episodes, first)


def test_figures_know_which_way_is_up() -> None:
    assert [by(word, None, 1, 0).direction for word in ("score", "raw", "val_loss", "critic/loss")] == [
        "max", "max", "min", "min",
    ]  # fmt: skip
    assert by("critic/explained", "max", 1, 0).direction == "max"
    with pytest.raises(InputError, match="say whether more of it is better"):
        by("critic/explained", None, 1, 0)
    with pytest.raises(InputError, match="score is better the higher"):
        by("score", "min", 1, 0)


def test_figures_of_tables(tmp_path: Path) -> None:
    rows = "".join(f"{step},{0.0 if step < 95 else step}\n" for step in range(1, 101))
    (tmp_path / "metrics.csv").write_text("step,planner/error\n" + rows)
    assert by("planner/error", None, 1, 0).so_far(tmp_path) == pytest.approx(np.mean([0.0] * 4 + [*range(95, 101)]))
    (tmp_path / "landscape.csv").write_text("step,log_sigma,log_loss\n1,0,9\n1,1,9\n50,0,1\n50,1,2\n")
    assert by("val_loss", None, 1, 0).so_far(tmp_path) == 1.5
    with pytest.raises(UnknownColumnError, match=r"metrics\.csv has no such column; it has planner/error"):
        by("planer/error", None, 1, 0).so_far(tmp_path)
    with pytest.raises(UnknownColumnError, match="it has planner/loss; choose another"):  # at the first row
        by("planer/error", None, 1, 0).known_in({"seconds": 1.0, "planner/loss": 2.0})
    by("planner/loss", None, 1, 0).known_in({"seconds": 1.0, "planner/loss": 2.0})


# The search


def test_the_optimum_is_found_sooner_than_by_chance(tmp_path: Path) -> None:
    found = {}
    for search in ("tpe", "random"):
        made = sweep(tmp_path / search, trials=30, search=search, recipe=FV(rate=0.09))
        made.go(Known())
        values = [row.value for row in made.rows()]
        assert values[0] == known(FV(rate=0.09))  # the recipe as it is comes first
        found[search] = values
        best = made.study.best_trial
    assert max(found["tpe"]) > -0.01  # within a quarter of a decade either way: 10^-2.6 to 10^-2.4, and the right width
    late = {search: float(np.median(values[15:])) for search, values in found.items()}
    assert late["tpe"] > -0.3 > -1.0 > late["random"]
    assert best.params.keys() == {"rate", "width"}


def test_it_is_said_what_matters(tmp_path: Path) -> None:
    """The rate alone decides: it has to stand before two fields that decide nothing, where there is enough to say."""
    pool = Known(fate=lambda piece: Ending("finished", -((math.log10(piece.recipe.rate) + 2.5) ** 2)))
    over = ("rate=1e-4:1e-1:log", "hold=0:1", "width=16,32,64")
    made = sweep(tmp_path / "a", over, trials=19, search="random")
    made.go(pool)
    assert importance(made.study, list(made.space)) == {}
    made = sweep(tmp_path / "a", over, trials=24, search="random")
    made.go(pool)
    found = importance(made.study, list(made.space))
    assert sum(found.values()) == pytest.approx(1)
    assert found["rate"] > 0.5


def test_a_sweep_that_is_killed_anywhere_goes_on_to_the_same_trials(tmp_path: Path) -> None:
    whole = sweep(tmp_path / "whole", trials=13)
    whole.go(Known())
    for killed in (1, 11):
        folder = tmp_path / f"killed{killed}"
        with pytest.raises(KilledError):
            sweep(folder, trials=13).go(Known(dies=killed))
        again, pool = sweep(folder, trials=13), Known()
        again.go(pool)
        assert table(again) == table(whole)
        assert [piece.number for piece in pool.begun] == list(range(killed, 13))  # the finished ones are not done again
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["trial"]), float(row["value"])) for row in rows] == [(n, v) for n, _, v, _ in table(whole)]


def test_half_a_line_is_no_line(tmp_path: Path) -> None:
    """A process may be killed while it writes, and leave its lock."""
    whole = sweep(tmp_path / "whole", trials=5)
    whole.go(Known())
    held = (tmp_path / "whole" / JOURNAL).read_bytes()
    for i, cut in enumerate(np.random.default_rng(0).integers(200, len(held) - 1, 3).tolist()):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / JOURNAL).write_bytes(held[:cut])
        (folder / f"{JOURNAL}.lock").symlink_to(folder / JOURNAL)
        again = sweep(folder, trials=5)
        again.go(Known())
        assert table(again) == table(whole)
        assert table(sweep(folder, trials=5)) == table(whole)  # and it can be read once more
    mend(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_no_trial_repeats_another_and_a_finite_space_comes_to_its_end(tmp_path: Path) -> None:
    made = sweep(tmp_path / "all", ("width=16,32,64", "keep=true,false", "batch=63:64"), trials=50)
    made.go(Known())
    told = [row.told for row in made.rows()]
    assert len(told) == 12 == len({tuple(sorted(one.items())) for one in told})
    assert told[0] == {"width": "32", "keep": "true", "batch": 64}  # the recipe as it is


def test_a_sweep_is_prolonged(tmp_path: Path) -> None:
    sweep(tmp_path / "a", trials=4).go(Known())
    longer, pool = sweep(tmp_path / "a", trials=7), Known()
    longer.go(pool)
    assert [piece.number for piece in pool.begun] == [4, 5, 6]


def test_a_trial_that_fails_costs_itself_alone(tmp_path: Path) -> None:
    def fate(piece: Piece) -> Ending:
        return Ending("failed", why="DivergedError: no") if piece.number in (1, 3) else Ending("finished", 1.0)

    made = sweep(tmp_path / "a", trials=6)
    made.go(Known(fate=fate))
    states = [row.state for row in made.rows()]
    assert states == ["finished", "failed", "finished", "failed", "finished", "finished"]
    assert read_sweep(tmp_path / "a")["counts"] == {"finished": 4, "failed": 2}
    assert read_rows(tmp_path / "a")[3].why == "DivergedError: no"


def test_fields_that_do_not_fit_each_other_are_a_failed_trial(tmp_path: Path) -> None:
    pool = Known()
    made = sweep(tmp_path / "a", ("path=trig,vp", "predict=trig,eps"), trials=9, recipe=FV())
    made.go(pool)
    rows = made.rows()
    assert len(rows) == 4
    (failed,) = [row for row in rows if row.state == "failed"]
    assert failed.told == {"path": "vp", "predict": "trig"}
    assert len(pool.begun) == 3


def test_where_all_trials_fail_the_sweep_says_so(tmp_path: Path) -> None:
    pool = Known(fate=lambda piece: Ending("failed", why="no such GPU"))
    with pytest.raises(InputError, match="the first 3 trials have all failed, the last one thus: no such GPU"):
        sweep(tmp_path / "a", trials=20).go(pool)
    assert pool.stopped


def test_what_no_trial_can_be_blamed_for_stops_the_sweep_and_is_tried_again(tmp_path: Path) -> None:
    full = Known(fate=lambda piece: Ending("broken", why="no space left") if piece.number else Ending("finished", 1.0))
    with pytest.raises(CheckpointError, match=r"trial 1: no space left; the same command goes on"):
        sweep(tmp_path / "a", trials=3).go(full)
    again = sweep(tmp_path / "a", trials=3)
    again.go(Known())
    assert [row.state for row in again.rows()] == ["finished"] * 3


def test_a_wish_to_stop_is_granted_and_told_to_the_trials(tmp_path: Path) -> None:
    def fate(piece: Piece) -> Ending:
        signal.raise_signal(signal.SIGTERM)
        return Ending("finished", 1.0)

    pool = Known(fate=fate)
    with pytest.raises(SystemExit) as stop:
        sweep(tmp_path / "a", trials=9).go(pool)
    assert (stop.value.code, len(pool.begun), pool.stopped) == (143, 1, True)


def test_several_at_once(tmp_path: Path) -> None:
    pool = Known(room=3)
    made = sweep(tmp_path / "a", trials=8)
    made.go(pool)
    assert [row.state for row in made.rows()] == ["finished"] * 8
    assert len({tuple(row.told.items()) for row in made.rows()}) == 8


# Pruning


class Late:
    """A pool of threads in which trials have figures on their way: those of an odd number are bad."""

    def __init__(self) -> None:
        self.room, self.going, self.done = 1, list[threading.Thread](), list[tuple[int, Ending]]()

    def start(self, piece: Piece) -> None:
        thread = threading.Thread(target=self._go, args=(piece,))
        self.going.append(thread)
        thread.start()

    def _go(self, piece: Piece) -> None:
        training: Any = dataclasses.make_dataclass("Training", ["run"])(piece.folder)
        piece.folder.mkdir(exist_ok=True)
        watch, ending = Watch(training, piece, None), Ending("finished", float(-(piece.number % 2)))
        watch.open(piece.folder, 0)
        try:
            for step in range(10, 101, 10):
                value = -step * (1 + piece.number % 2)
                (piece.folder / "metrics.csv").write_text(f"step,planner/error\n{step},{-value}\n")
                watch.write(step, {})
        except one.PrunedError:
            ending = Ending("pruned")
        self.done.append((piece.number, ending))

    def ended(self) -> list[tuple[int, Ending]]:
        done, self.done = self.done, []
        return done

    def stop(self) -> None:
        for thread in self.going:
            thread.join()


@pytest.mark.parametrize("prune", ["median", "hyperband"])
def test_trials_that_are_behind_are_ended_early(tmp_path: Path, prune: Any) -> None:
    figure = by("planner/error", None, 1, 0)
    made = sweep(tmp_path / "a", trials=8, prune=prune, by=figure, recipe=FV(steps=100))
    made.go(Late())
    states = [row.state for row in made.rows()]
    pruned = [number for number, state in enumerate(states) if state == "pruned"]
    assert pruned
    assert all(number % 2 for number in pruned)
    if prune == "median":  # which needs five that finished, and then looks at a quarter of the steps
        assert pruned == [5, 7]
        assert json.loads((tmp_path / "a/trial-005/rungs.json").read_text()) == {"1": 60.0}
        assert json.loads((tmp_path / "a/trial-004/rungs.json").read_text()) == {"1": 30.0, "2": 50.0, "3": 80.0}


def test_nothing_is_looked_at_unless_that_was_asked_for(tmp_path: Path) -> None:
    pool = Known()
    sweep(tmp_path / "a", trials=2).go(pool)
    assert pool.begun[0].rungs == ()


# What a trial is


def test_a_real_trial_is_a_run_like_any_other(here: Path, run: Run) -> None:
    """Carried out in this process: trained and evaluated apart, and again without work; then what it writes fails."""
    (here / "sweep.json").write_text("{}")
    flags = Train(env="maze2d-umaze", demonstrations=2000, out=here / "trial-000")
    recipe = FV(steps=4, batch=4, width=8, atlas=4, candidates=4)
    piece = Piece(0, recipe, "fv", flags, by("success", None, 2, 7), 1)
    ending = carried_out(piece)
    assert ending.state == "finished", ending
    words = json.loads((here / "trial-000" / CHOOSING / "evaluation.json").read_text())
    assert words["seeds"] == [7, 8]
    assert ending.value == words["success"]
    assert not (here / "trial-000" / "evaluation.json").exists()  # what is reported is measured on other starts
    assert "evaluating" in (here / "trial-000" / one.SAID).read_text()
    code, out, err = run("train", "fv", *SMALL[:4], *TINY, "--steps", "4", "--out", "trial-000")
    assert code == 0, err
    assert "is finished" in out
    wrong = dataclasses.replace(piece, by=by("planner/nothing", "min", 1, 0))
    assert carried_out(wrong).state == "amiss"
    unlike = dataclasses.replace(piece, recipe=dataclasses.replace(recipe, rate=1e-3))
    assert carried_out(unlike).state == "broken"  # the folder is another run's
    unseen = dataclasses.replace(piece, flags=dataclasses.replace(flags, out=here / "elsewhere" / "trial-000"))
    assert "has to lie where all machines see it" in carried_out(unseen).why


def test_how_trials_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    piece = Piece(0, FV(), "fv", Train(out=tmp_path / "a"), by("score", None, 2, 0), 1)
    ends: dict[str, Any] = {
        "failed": [
            RuntimeError("CUDA out of memory"),
            MemoryError(),
            OSError(12, "no memory"),
            InputError("no"),
            math.nan,
            math.inf,
        ],
        "stopped": [SystemExit(143), KeyboardInterrupt()],
        "broken": [OSError(28, "No space left on device")],
        "amiss": [UnknownColumnError("no such column")],
        "pruned": [one.PrunedError()],
        "finished": [3.0],
    }
    for state, causes in ends.items():
        for cause in causes:

            def figure(_: Piece, cause: Any = cause) -> float:
                if isinstance(cause, BaseException):
                    raise cause
                return cause

            monkeypatch.setattr(one, "_figure", figure)
            assert carried_out(piece).state == state, cause
    assert "CUDA out of memory" in (tmp_path / "a" / one.SAID).read_text()


def dies(pipe: Any, piece: Piece) -> None:
    signal.raise_signal(signal.SIGKILL)


def test_a_process_that_is_killed_is_a_failed_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forks = multiprocessing.get_context("fork")
    monkeypatch.setattr(pools, "in_a_process", dies)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: forks)
    pool = pools.Processes()
    pool.start(Piece(4, FV(), "fv", Train(out=tmp_path / "a"), by("score", None, 2, 0), 1))
    until = time.monotonic() + 30
    while not (found := pool.ended()) and time.monotonic() < until:
        time.sleep(0.01)
    assert found == [(4, Ending("failed", why="its process was killed (by the system, where memory runs out)"))]
    assert pool.ended() == []


class FakeRay:
    """What of ray is used: tasks are done when they are asked for, and by what they are told."""

    class exceptions:
        class RayError(Exception): ...

        class TaskCancelledError(RayError): ...

    def __init__(self, refuses: int = 0, **there: float) -> None:
        self.refuses, self.there, self.told, self.ended = refuses, there, dict[str, Any](), 0

    def init(self, **told: Any) -> None:
        self.told = told
        self.refuses -= 1
        if self.refuses >= 0:
            raise Exception("The current node timed out")

    def cluster_resources(self) -> dict[str, float]:
        return self.there

    def remote(self, **how: Any) -> Any:
        self.how = how
        return lambda task: type("Task", (), {"remote": staticmethod(lambda piece: (piece.number, piece))})

    def wait(self, tasks: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return tasks[:1], tasks[1:]

    def get(self, task: Any) -> Ending:
        if task[0] == 1:
            raise self.exceptions.RayError("the worker died")
        if task[0] == 2:
            raise self.exceptions.TaskCancelledError
        return Ending("finished", 1.0)

    def shutdown(self) -> None:
        self.ended += 1


def test_a_cluster_gives_room_and_hears_of_lost_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ray = FakeRay(CPU=9.0, GPU=3.0, refuses=2)
    monkeypatch.setattr(pools, "_ray", lambda: ray)
    pool = pools.Ray("local", None, 2, 0)
    assert (pool.room, ray.told["include_dashboard"], ray.how["num_cpus"]) == (4, False, 2)
    assert pools.Ray("auto", None, 2, 1).room == 3  # as many as there are GPUs
    assert pools.Ray("auto", 2, 1, 0).room == 2
    assert ray.told["address"] == "auto"
    for number in range(3):
        pool.start(Piece(number, FV(), "fv", Train(out=tmp_path / "a"), by("score", None, 2, 0), 1))
    found = [ending for _ in range(4) for ending in pool.ended()]
    assert found == [
        (0, Ending("finished", 1.0)), (1, Ending("failed", why="RayError: the worker died")), (2, Ending("stopped")),
    ]  # fmt: skip
    with pytest.raises(InputError, match="no room for a trial there, which takes 10 processors"):
        pools.Ray("auto", None, 10, 0)
    for address, said in (("local", "ray did not start here"), ("10.0.0.1:6379", "no cluster there")):
        ray.refuses = 9
        with pytest.raises(InputError, match=said):
            pools.Ray(address, None, 1, 0)


# The command


def test_the_command_that_repeats_a_trial_says_all_that_differs() -> None:
    recipe = FV(rate=3e-4, mults=(1, 2, 4), keep=False, net="conv", actions=True, follow="inverse", width=48)
    flags = Train(env="maze2d-umaze", seed=3, out=Path("runs/a b"), goal=(1.0, 2.5), precision="bf16")
    said = shlex.split(command(recipe, "fv", flags))
    assert said[:3] == ["kedge", "train", "fv"]
    found = training.parse(said[2:])
    assert (found.recipe, found.flags) == (recipe, flags)


def test_a_sweep_on_the_command_line(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "Processes", lambda room: Known(room))
    args = ("sweep", "fv", *SMALL[:4], "--over", "rate=1e-4:1e-1:log", "--over", "width=16,32,64", "--trials", "10")
    code, out, err = run(*args)
    assert code == 0, err
    assert "10 trials: 10 finished" in out
    assert "chosen by the latched score on starts 0 to 99 (the higher the better)" in out
    words = read_sweep(here / "runs/fv-umaze-sweep")
    best = max(read_rows(here / "runs/fv-umaze-sweep"), key=lambda row: row.value or -9.0)
    assert words["best"]["trial"] == best.number
    assert out.splitlines()[1].split()[0] == str(best.number)
    assert f"next: kedge eval runs/fv-umaze-sweep/trial-{best.number:03d}" in out
    code, out, err = run(*args, "--json")
    assert code == 0, err
    assert json.loads(out)["finished_before"] is True
    code, _, err = run(*args[:-1], "12", "--prune", "median")
    assert code == 3
    assert "prune: none there, median here" in err
    code, _, err = run(*args, "--batch", "8")
    assert code == 3
    code, out, err = run("report", "runs/fv-umaze-sweep")
    assert code == 0, err
    page = (here / "runs/fv-umaze-sweep/report.html").read_text()
    assert f"trial-{best.number:03d}" in page
    assert page.count("<svg") == 3  # the trials in their order, and a picture a field
    assert page.count("<tr") == 11


def test_wrong_flags_are_one_line_before_any_work(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    over = ("--over", "rate=1e-4:1e-1:log")
    for args, said in (
        ((), "a sweep needs something to search over"),
        ((*over, "--trials", "0"), "--trials must be at least 1"),
        ((*over, "--at-once", "0"), "--at-once must be at least 1"),
        ((*over, "--rate", "1e-3"), "--rate 0.001 and --over rate"),
        ((*over, "--first-seed", "1000000"), "those beyond are for reporting"),
        ((*over, "--by", "critic/explained"), "--direction max or --direction min"),
        ((*over, "--data", "none.npz"), "--by score takes an environment"),
        ((*over, "--env", "maze2d-lagre"), "did you mean maze2d-large?"),
    ):
        code, _, err = run("sweep", "fv", *args)
        assert code == 2, err
        assert said in err
        assert err.count("\n") == 1
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("optuna", "ray") else object())
    code, _, err = run("sweep", "fv", *over)
    assert (code, err) == (2, "kedge: this needs optuna, which is not installed: pip install 'kedge[sweep]'\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else object())
    code, _, err = run("sweep", "fv", *over, "--ray", "local")
    assert (code, err) == (2, "kedge: this needs ray, which is not installed: pip install 'kedge[ray]'\n")


def test_two_processes_do_not_share_a_sweep(here: Path, run: Run) -> None:
    import fcntl

    (here / "busy").mkdir()
    with (here / "busy/.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, _, err = run("sweep", "fv", *SMALL[:4], "--over", "width=16,32", "--out", "busy")
    assert (code, err.count("\n")) == (2, 1)
    assert "another process is at work on this sweep" in err


def test_paths_hold_and_cores_are_shared(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kedge.run.abreast.cores", lambda: 8)
    (here / "mine.npz").touch()
    flags = Flags(data="mine.npz", at_once=3)._flags()
    assert (flags.data, flags.threads) == (str(here / "mine.npz"), 2)
    assert Flags(at_once=1)._flags().threads is None
    assert Flags(ray="local")._flags().threads == 1
    assert type(flags) is Train


# In earnest


def started(*args: str) -> subprocess.Popen[str]:
    told = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "kedge", "sweep", "fv", *SMALL, *args]
    return subprocess.Popen(command, env=told, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.slow
def test_a_sweep_that_is_stopped_and_then_killed_goes_on(here: Path) -> None:
    """Told to stop in the midst of the second trial, then killed with all its processes: the trial goes on from the
    checkpoint of the first, and the trial before it is not touched.
    """
    args = ("--over", "steps=60,250", "--seed", SIXTY_FIRST, "--by", "planner/error", "--out", "it")
    first, second = started(*args), here / "it/trial-001"
    assert come_to(first, second, 100), first.communicate()
    first.terminate()
    assert "stopped; the same command goes on from what is finished" in first.communicate(timeout=60)[1]
    assert first.returncode == 143
    step = weights_step(second / "weights.safetensors")
    assert step is not None
    assert 100 <= step < 250
    before = (second / "metrics.csv").read_text().splitlines()[: 1 + step // 50]
    done = (here / "it/trial-000/metrics.csv").stat().st_mtime_ns
    killed = started(*args)
    assert come_to(killed, second, 200), killed.communicate()
    killed.kill()
    killed.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while not quiet(second) and time.monotonic() < deadline:  # the trial's own process ends with the sweep's
        pass
    assert weights_step(second / "weights.safetensors") == step
    again = started(*args)
    out, err = again.communicate(timeout=500)
    assert again.returncode == 0, err
    assert "2 trials: 2 finished" in out
    assert "trial 0:" not in err
    assert (here / "it/trial-000/metrics.csv").stat().st_mtime_ns == done
    after = (second / "metrics.csv").read_text().splitlines()
    assert after[: len(before)] == before  # with the seconds that those steps took: they were not made again
    assert [int(row.partition(",")[0]) for row in after[1:]] == [50, 100, 150, 200, 250]
    assert [row.value for row in read_rows(here / "it")] == [
        by("planner/error", None, 1, 0).so_far(here / f"it/trial-00{number}") for number in (0, 1)
    ]


SIXTY_FIRST = "2"
"""A seed that draws the short trial first."""


def come_to(process: subprocess.Popen[str], run: Path, step: int) -> bool:
    """Waits until a training has come to a step, as long as its process lives."""
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline and process.poll() is None:
        lines = (run / "metrics.csv").read_text().splitlines() if (run / "metrics.csv").exists() else []
        if len(lines) > 1 and int(lines[-1].partition(",")[0] or 0) >= step:
            return True
        time.sleep(0.02)
    return False


def quiet(run: Path) -> bool:
    """Whether nobody writes there any more."""
    before = (run / "metrics.csv").stat().st_mtime_ns
    time.sleep(2.0)
    return (run / "metrics.csv").stat().st_mtime_ns == before


@pytest.mark.slow
def test_on_a_ray_of_two_workers(here: Path) -> None:
    """The same as in processes of this machine, two at once; and the folder holds the same sweep."""
    args = ("--steps", "60", "--over", "horizon=16,32", "--trials", "2", "--by", "planner/error", "--at-once", "2")
    figures = []
    for name, where in (("ray", ("--ray", "local")), ("here", ())):
        made = started(*args, *where, "--out", name)
        out, err = made.communicate(timeout=280)
        assert made.returncode == 0, err
        assert "2 trials: 2 finished" in out
        figures.append([(row.told, row.value) for row in read_rows(here / name)])
        begun = [(here / name / f"trial-00{number}/recipe.json").stat().st_mtime for number in (0, 1)]
        ended = [(here / name / f"trial-00{number}/log.txt").stat().st_mtime for number in (0, 1)]
        assert max(begun) < min(ended)
    assert figures[0] == figures[1]
    assert read_sweep(here / "ray")["sweep"] == read_sweep(here / "here")["sweep"]
