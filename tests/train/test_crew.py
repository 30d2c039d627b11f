"""Two processes that train one run: the numbers of one process, written once, and ended together."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from kedge.fit.draw import Spread, uniforms
from kedge.train import AdamW, Batches, Crew, Part, Tick, Trainer, load_weights
from kedge.train.crew import ALONE
from kedge.train.interrupts import Interrupts
from kedge.train.update import Updater
from train.launched import launched, states, table, until
from train.together import trainer

SCRIPT = Path(__file__).with_name("together.py")


def test_two_processes_train_as_one_and_end_together(tmp_path: Path) -> None:
    both = launched(SCRIPT, 2, tmp_path)
    until(tmp_path / "slow" / "metrics.csv", both)
    both[1].send_signal(signal.SIGINT)  # one alone hears it first, as happens
    until(tmp_path / "ready-0", both)
    until(tmp_path / "ready-1", both)
    time.sleep(0.2)
    both[1].kill()
    said = [one.communicate(timeout=60) for one in both]

    for name, accumulate in (("plain", 1), ("accumulated", 3)):
        trainer(tmp_path / f"{name} alone", accumulate=accumulate).train()
        (names, shared), (names_alone, alone) = table(tmp_path / name), table(tmp_path / f"{name} alone")
        assert names == names_alone
        assert len(shared) == 12
        torch.testing.assert_close(shared, alone, rtol=1e-9, atol=1e-12, equal_nan=True)
        found, expected = (
            load_weights(run / "weights.safetensors") for run in (tmp_path / name, tmp_path / f"{name} alone")
        )
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    alone = trainer(tmp_path / "plain", 14)
    alone.train()
    assert len(table(tmp_path / "plain")[1]) == 14, "what two have begun, one goes on with"
    (words, whole), (words_again, again) = states(tmp_path / "whole", 24), states(tmp_path / "broken", 24)
    assert words == words_again
    assert not torch.equal(whole["rng/cpu"], whole["rng/others/1/cpu"]), "each has random numbers of its own"
    assert [name for name in whole if not torch.equal(whole[name], again[name])] == []
    reported = json.loads(said[1][0])
    assert reported["interrupted"] == 130
    assert "processes differ in weights" in reported["drifted"]
    assert said[0][0] == "", "the first writes to its folder"
    lines = said[0][1].splitlines()
    assert [line.partition(" after")[0] for line in lines[:1]] == [f"{tmp_path}/slow: stopped"]
    assert len(lines) == 2
    assert lines[1].startswith("kedge: process 0 of 2: another process of this training has ended; start all of them")
    assert both[0].returncode == 1
    assert said[1][1] == ""


@pytest.mark.parametrize("spread", ["independent", "stratified", "lattice"])
def test_a_share_hears_what_its_samples_hear_in_the_whole_batch(spread: Spread) -> None:
    whole = Tick(7, 3, part=1, turn=2)
    parts = [Tick(7, 3, part=1, turn=2, crew=Crew(rank, 3)) for rank in range(3)]
    assert torch.equal(
        torch.cat([tick.noise(4).normal((4, 2), 7) for tick in parts]), whole.noise(12).normal((12, 2), 7)
    )
    levels = [uniforms(spread, 4, tick.noise(4), 7) for tick in parts]
    assert torch.equal(torch.cat(levels), uniforms(spread, 12, whole.noise(12), 7))


def test_shares_are_equal_parts() -> None:
    batch = {"x": torch.arange(6), "name": "kept"}
    assert [Crew(rank, 3).share(batch)["x"].tolist() for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert Crew(1, 3).share(batch)["name"] == "kept"
    assert ALONE.share("anything") == "anything"
    with pytest.raises(ValueError, match="6 samples has no 4 equal parts"):
        Crew(0, 4).share(batch)
    with pytest.raises(ValueError, match="a list cannot be shared"):
        Crew(0, 2).share([1, 2])


def test_a_loss_that_may_couple_samples_is_not_shared() -> None:
    model = nn.Linear(3, 1)
    part = Part(model, lambda batch, tick: (model(batch).mean(), {}), AdamW())
    with pytest.raises(ValueError, match=r"cannot be shared among 2 processes.*Part\(shared=True\)"):
        Updater(part, 0, 0, 1, 1, torch.no_grad, Crew(0, 2))
    Trainer([part], Batches(torch.ones(8, 3), 4), 1).train()


@pytest.fixture
def impatient() -> Iterator[None]:
    """SIGINT does what it does at a terminal: what runs in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("impatient")
def test_a_signal_that_a_launcher_repeats_is_only_noted() -> None:
    with Interrupts(launched=True) as interrupts:
        try:
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pytest.fail("a signal that was passed on is no impatience")
    assert interrupts.received == signal.SIGINT
    with Interrupts():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert [Crew(3, 4).device(wanted) for wanted in ("cuda", "cuda:0", "cpu", None)] == [
        "cuda:1",
        "cuda:0",
        "cpu",
        None,
    ]
    assert ALONE.device("cuda") == "cuda"
