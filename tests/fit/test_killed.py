"""A denoiser whose training was killed and taken up again is, to the last bit, the one that was left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from fit.denoising_run import trainer
from kedge.train import load_tree
from kedge.train.checkpoint import split
from runs import interrupt_at, rows

SCRIPT = Path(__file__).with_name("denoising_run.py")


def start(run: Path) -> subprocess.Popen[str]:
    """The run in another process, slowed, with one thread as here: another number adds up in another order."""
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(run), "0.005"], env=one, stderr=subprocess.PIPE, text=True
    )


def test_weights_average_weighting_and_order_of_the_data_survive_a_kill(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trainer(whole).train()
    assert interrupt_at(start(broken), broken, 70, signal.SIGKILL)[0] == -signal.SIGKILL
    assert trainer(broken).state()["step"] == 0  # it is the folder that knows better
    trainer(broken).train()
    ends = [split(load_tree(run / "state" / "step-00000150")) for run in (whole, broken)]
    (plain, tensors), (plain_again, again) = ends
    assert {**plain, "seconds": 0} == {**plain_again, "seconds": 0}
    assert tensors.keys() == again.keys()
    for wanted in ("weighting.coefficients", "weighting.gram", "denoiser.net"):
        assert any(wanted in name for name in tensors), wanted
    assert not any(name for name in tensors if not torch.equal(tensors[name], again[name]))
    assert rows(whole) == rows(broken)
    assert len(rows(whole)) == 150
