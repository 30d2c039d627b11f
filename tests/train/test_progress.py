"""What is shown, and when nothing is."""

from __future__ import annotations

import io
import sys
import time

import pytest
import torch
from torch import nn

from kedge.train import AdamW, Batches, Part, Trainer
from kedge.train import progress as shown


class Terminal(io.StringIO):
    """A terminal of 100 columns."""

    def isatty(self) -> bool:
        return True


def run(progress: bool | None, pause: float = 0.0, log_every: int = 4) -> None:
    model = nn.Linear(2, 2)

    def loss(batch: torch.Tensor, tick: object) -> tuple[torch.Tensor, dict[str, float]]:
        time.sleep(pause)
        return model(batch).square().mean(1), {}

    source = Batches(torch.randn(8, 2), 4)
    Trainer([Part(model, loss, AdamW())], source, 40, log_every=log_every, progress=progress).train()


@pytest.mark.parametrize("progress", [None, False])
def test_nothing_is_shown_where_there_is_no_terminal(progress: bool | None, capsys: pytest.CaptureFixture[str]) -> None:
    run(progress)
    assert capsys.readouterr() == ("", "")


def test_plain_lines_where_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "LINE", 0.05)
    run(True, pause=0.005)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 12
    assert lines[-1].startswith("training 40/40  ")
    for word in ("steps/s", "left", "loss 0."):
        assert word in lines[-1]


def test_a_loss_is_shown_once_there_is_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at the end of a run that is shorter than the steps that a loss is averaged over."""
    monkeypatch.setattr(shown, "LINE", 0.05)
    run(True, pause=0.005, log_every=50)
    lines = capsys.readouterr().err.splitlines()
    assert not any("loss" in line for line in lines[:-1])
    assert lines[-1].startswith("training 40/40  ")
    assert "loss 0." in lines[-1]


def test_a_bar_on_a_terminal_with_rate_time_left_and_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    drawn: list[int] = []
    draw = shown.Progress._draw
    monkeypatch.setattr(shown.Progress, "_draw", lambda self, step, now: (drawn.append(step), draw(self, step, now)))
    run(None, pause=0.02)
    text = terminal.getvalue()
    assert "training" in text
    assert "40/40" in text
    assert "loss 0." in text
    assert "/s" in text
    assert 2 <= len(drawn) <= 40 * 0.03 / shown.FRAME + 3  # a few pictures a second, not one a step


def test_the_clock() -> None:
    assert [shown.clock(s) for s in (0.2, 61.0, 3600.0, 7325.4)] == ["0:00", "1:01", "1:00:00", "2:02:05"]
