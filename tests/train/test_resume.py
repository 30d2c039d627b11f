"""A run that was killed and taken up again is, to the last bit, the run that was left alone."""

from __future__ import annotations

import contextlib
import functools
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from forked import Forks, forking
from kedge.train import Trainer
from kedge.train.checkpoint import CheckpointWarning, load_tree, load_weights, save_weights, split, weights_step
from runs import interrupt_at, rows
from train.resumable import trainer

SCRIPT = Path(__file__).with_name("resumable.py")
STEPS = 200


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """Where processes come from, but for the runs that are left alone: those have other seeds of their hashes."""
    with forking("torch._dynamo", "kedge.train") as found:
        yield found


def command(run: Path, optimiser: str, steps: int = STEPS, delay: float = 0.0, initial: int = 0) -> list[str]:
    return [str(SCRIPT), str(run), optimiser, str(steps), str(delay), str(initial)]


def finish(forks: Forks | None, run: Path, optimiser: str, steps: int = STEPS, initial: int = 0) -> str:
    args = command(run, optimiser, steps, initial=initial)
    process = subprocess.Popen([sys.executable, *args], stderr=-1, text=True) if forks is None else forks.start(*args)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    return said


def last(run: Path) -> Any:
    return load_tree(sorted((run / "state").glob("step-*"))[-1])


def tensors_of(run: Path) -> dict[str, Tensor]:
    return split(last(run))[1] | {f"weights/{k}": v for k, v in load_weights(run / "weights.safetensors").items()}


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, averages, optimisers, statistics, generators, data position, counters and the table."""
    a, b = tensors_of(one), tensors_of(other)
    assert a.keys() == b.keys()
    assert len(a) > 40
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert torch.equal(a[name], b[name]), name
    plain_a, plain_b = split(last(one))[0], split(last(other))[0]
    assert {**plain_a, "seconds": 0} == {**plain_b, "seconds": 0}
    assert rows(one) == rows(other)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of an optimiser that was left alone."""

    @functools.cache
    def run(optimiser: str) -> Path:
        folder = tmp_path_factory.mktemp(optimiser)
        finish(None, folder, optimiser)
        return folder

    return run


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_killed_twice_and_resumed_is_bitwise_the_same(
    forks: Forks, optimiser: str, untouched: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    for initial, low, high in ((0, 45, 65), (1, 125, 145)):  # a resumed run owes nothing to its own initial weights
        process = forks.start(*command(run, optimiser, delay=0.004, initial=initial))
        code, _ = interrupt_at(process, run, random.randint(low, high), signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert 0 < last(run)["step"] < STEPS
    finish(forks, run, optimiser, initial=2)
    assert_same_run(run, untouched(optimiser))


class CrashError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_crash_within_one_process_is_made_good_too(
    optimiser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without processes: quick enough to be asked often, at steps that are in the middle of everything."""
    trainer(tmp_path / "whole", optimiser, STEPS).train()
    advance = Trainer.advance
    for initial, crash in enumerate((58, 131, 0)):

        def crashing(self: Trainer, crash: int = crash) -> None:
            if crash and self.step == crash:
                raise CrashError
            advance(self)

        monkeypatch.setattr(Trainer, "advance", crashing)
        with pytest.raises(CrashError) if crash else contextlib.nullcontext():
            trainer(tmp_path / "crashed", optimiser, STEPS, initial=initial).train()
    assert_same_run(tmp_path / "crashed", tmp_path / "whole")


def test_killed_before_the_first_checkpoint_starts_from_the_same_weights(forks: Forks, tmp_path: Path) -> None:
    """Whoever does not seed the initial weights gets them back from the checkpoint of step 0."""
    run = tmp_path / "early"
    code, _ = interrupt_at(forks.start(*command(run, "adamw", delay=0.01)), run, 7, signal.SIGKILL)
    assert code == -signal.SIGKILL
    before = last(run)
    assert before["step"] == 0
    finish(forks, run, "adamw", steps=40, initial=1)
    again = load_tree(run / "state" / "step-00000000")
    assert torch.equal(again["parts"]["model"]["module"]["0.weight"], before["parts"]["model"]["module"]["0.weight"])
    assert [int(row["step"]) for row in rows(run)] == [7, 14, 21, 28, 35, 40]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    forks: Forks, number: int, untouched: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "stopped"
    code, said = interrupt_at(forks.start(*command(run, "adamw", delay=0.004)), run, 50, number)
    assert code == 128 + number
    stopped = last(run)["step"]
    assert 50 <= stopped < STEPS
    assert said == f"{run}: stopped after {stopped} of {STEPS} steps; run the same command again to go on\n"
    if number == signal.SIGINT:
        finish(forks, run, "adamw", initial=1)
        assert_same_run(run, untouched("adamw"))


def test_a_finished_run_says_so_and_does_nothing(forks: Forks, untouched: Callable[[str], Path]) -> None:
    run = untouched("adamw")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert finish(forks, run, "adamw") == f"{run}: already trained, {STEPS} of {STEPS} steps; nothing to do\n"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_weights_that_a_crash_left_behind_their_checkpoint_are_written_again(
    forks: Forks, untouched: Callable[[str], Path], tmp_path: Path
) -> None:
    """The checkpoint of the last step was whole when the process died, and the weights were those of an earlier one."""
    run = tmp_path / "run"
    shutil.copytree(untouched("adamw"), run)
    whole = load_weights(run / "weights.safetensors")
    assert weights_step(run / "weights.safetensors") == STEPS
    save_weights(run / "weights.safetensors", {k: 0 * v for k, v in whole.items()}, {"step": str(STEPS - 50)})
    assert "already trained" in finish(forks, run, "adamw")
    again = load_weights(run / "weights.safetensors")
    assert weights_step(run / "weights.safetensors") == STEPS
    assert all(again[name].equal(whole[name]) for name in whole)
    (run / "weights.safetensors").write_bytes(b"no weights")
    assert weights_step(run / "weights.safetensors") is None
    finish(forks, run, "adamw")
    assert weights_step(run / "weights.safetensors") == STEPS


def test_a_truncated_checkpoint_falls_back_to_the_one_before(
    forks: Forks, untouched: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "truncated"
    interrupt_at(forks.start(*command(run, "adamw", delay=0.002)), run, 168, signal.SIGKILL)
    broken = run / "state" / "step-00000160" / "tensors.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    said = finish(forks, run, "adamw", initial=1)
    assert said.count("CheckpointWarning") == 1
    assert "instead of" in said
    assert "going on from step-00000120 instead" in said
    assert_same_run(run, untouched("adamw"))
    assert issubclass(CheckpointWarning, UserWarning)


def test_killed_after_its_last_checkpoint_a_run_has_its_last_figures(
    untouched: Callable[[str], Path], tmp_path: Path
) -> None:
    """The row of the last step, between two rows and on a checkpoint's own, is there before that checkpoint."""

    class KilledError(Exception):
        pass

    killed = trainer(tmp_path, "adamw", STEPS)
    save = killed.checkpoints.save

    def saved(step: int, tree: Any) -> None:
        save(step, tree)
        if step == STEPS:
            raise KilledError

    killed.checkpoints.save = saved
    killed.checkpoint_every, killed.checkpoints.tidy = 40, lambda: None  # nor has it come to drop the old ones
    with pytest.raises(KilledError):
        killed.train()
    trainer(tmp_path, "adamw", STEPS).train()
    assert_same_run(untouched("adamw"), tmp_path)
    kept = [sorted(path.name for path in (run / "state").iterdir()) for run in (untouched("adamw"), tmp_path)]
    assert kept[0] == kept[1]
