"""Batches made ahead are those that would have been made."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from data.logs import logs_of
from kedge.data import Ahead, Segments
from kedge.train import AdamW, Batches, Part, Tick, Trainer


def windows() -> Segments:
    return Segments(logs_of([30, 40]), 4, 3, 8, until="random")


class Watched:
    """Notes which thread makes which batch; its batch is the tick's number."""

    def __init__(self, fail: int = -1) -> None:
        self.made: list[tuple[int, int, bool]] = []
        self.done = defaultdict[int, threading.Event](threading.Event)
        self.fail = fail

    def next(self, tick: Tick) -> torch.Tensor:
        here = threading.current_thread() is threading.main_thread()
        self.made.append((tick.step, tick.turn, here))
        self.done[tick.step].set()
        if tick.step == self.fail:
            raise RuntimeError(f"no batch {tick.step}")
        return torch.tensor([tick.step, tick.turn])

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None:
        pass


def test_it_yields_what_the_source_yields() -> None:
    plain, ahead = windows(), Ahead(windows())
    # in order, then a jump back, another seed, and turns of accumulated batches
    ticks = [Tick(s, 3, -1) for s in (0, 1, 2, 1, 5)] + [Tick(s, 4, -1, t) for s in (6, 7, 8) for t in (0, 1, 2)]
    for tick in ticks:
        a, b = plain.next(tick), ahead.next(tick)
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert ahead.state() == plain.state()
    ahead.close()


def test_the_next_batch_is_made_meanwhile_by_one_thread() -> None:
    source = Watched()
    ahead = Ahead(source)
    for s in range(6):
        ahead.next(Tick(s, 0, -1))
    ahead.close()
    assert source.made[0] == (0, 0, True)
    assert source.made[1:6] == [(s, 0, False) for s in range(1, 6)]


def test_turns_are_foreseen_once_they_were_seen() -> None:
    source = Watched()
    ahead = Ahead(source)
    for s in range(4):
        for turn in range(2):
            assert ahead.next(Tick(s, 0, -1, turn)).tolist() == [s, turn]
    ahead.close()
    by_main = [(s, t) for s, t, here in source.made if here]
    assert by_main == [(0, 0), (0, 1)]


def test_making_and_using_overlap() -> None:
    """While this thread is still at step s, the batch of s + 1 is made to its end."""
    source = Watched()
    ahead = Ahead(source)
    for s in range(4):
        ahead.next(Tick(s, 0, -1))
        assert source.done[s + 1].wait(10)
    ahead.close()


def test_an_error_comes_up_where_its_batch_is_asked_for() -> None:
    ahead = Ahead(Watched(fail=2))
    ahead.next(Tick(0, 0, -1))
    ahead.next(Tick(1, 0, -1))
    with pytest.raises(RuntimeError, match=r"^no batch 2$"):
        ahead.next(Tick(2, 0, -1))
    assert ahead.next(Tick(3, 0, -1)).tolist() == [3, 0]
    ahead.close()


def test_a_source_with_a_position_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^Ahead: a batch of Batches follows from those before it, not from the tick"):
        Ahead(Batches(torch.arange(8), 4)).next(Tick(0, 0, -1))


class Following(Watched):
    """Its batches follow from the weights, and it says so."""

    follows_weights = True


def test_a_source_that_follows_the_weights_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^Ahead: a batch of Following follows from the weights .*: leave Ahead out$"):
        Ahead(Following())


class Counting(Watched):
    """Its state is one dictionary, which it alters."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = {"count": 0, "order": [torch.arange(4)]}

    def next(self, tick: Tick) -> torch.Tensor:
        self.kept["count"] += 1
        return super().next(tick)

    def state(self) -> dict[str, Any]:
        return self.kept


def test_a_source_that_alters_its_state_in_place_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^Ahead: a batch of Counting follows from those before it"):
        Ahead(Counting()).next(Tick(0, 0, -1))


class Ordered(Watched):
    """Its state holds a tensor, another object each time; `turn` alters its numbers."""

    def __init__(self, turn: bool = False) -> None:
        super().__init__()
        self.turn = turn

    def state(self) -> dict[str, Any]:
        return {"order": [torch.arange(4) + self.turn * len(self.made)], "name": "ordered"}


def test_a_state_may_hold_tensors() -> None:
    ahead = Ahead(Ordered())
    assert ahead.next(Tick(3, 0, -1)).tolist() == [3, 0]
    ahead.close()
    with pytest.raises(TypeError, match=r"^Ahead: a batch of Ordered follows from those before it"):
        Ahead(Ordered(turn=True)).next(Tick(0, 0, -1))


def threads() -> int:
    return sum(t.name.startswith("kedge-ahead") for t in threading.enumerate())


def test_the_thread_ends_with_it() -> None:
    before = threads()
    closed, dropped = Ahead(Watched()), Ahead(Watched())
    for ahead in (closed, dropped):
        ahead.next(Tick(0, 0, -1))
    assert threads() == before + 2
    closed.close()
    closed.close()
    assert threads() == before + 1
    del dropped, ahead
    gc.collect()
    deadline = time.monotonic() + 5
    while threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == before
    assert closed.next(Tick(1, 0, -1)).tolist() == [1, 0]
    closed.close()


def trainer(run: Path, ahead: bool, stop: int = -1) -> Trainer:
    torch.manual_seed(0)
    net = nn.Linear(4, 2)

    def loss(batch: Any, tick: Tick) -> Any:
        if tick.step == stop:
            signal.raise_signal(signal.SIGINT)
        return (net(batch["states"]) - batch["actions"]).square().mean((1, 2)), {}

    source = Ahead(windows()) if ahead else windows()
    part = Part(net, loss, AdamW(lr=1e-2))
    return Trainer([part], source, 30, run, progress=False, checkpoint_every=10)


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        trainer(tmp_path / "a", True, stop=13).train()
    assert stopped.value.code == 130
    runs = trainer(tmp_path / "a", True), trainer(tmp_path / "b", False)
    runs[0].resume()
    assert runs[0].step == 14
    for one in runs:
        one.train()
    a, b = (one.weights() for one in runs)
    assert all(torch.equal(a[name], b[name]) for name in b)
