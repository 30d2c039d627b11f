"""A denoiser whose training was killed and taken up again is, to the last bit, the one that was left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from fit.denoising_run import trainer
from kedge.train import load_tree
from kedge.train.checkpoint import split

SCRIPT = Path(__file__).with_name("denoising_run.py")


def killed_at(run: Path, step: int) -> None:
    """Runs in another process until the table shows the step, and kills it."""
    # one thread, as in the tests: another number of threads adds up in another order
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(run), "0.005"], env=one)
    table, deadline = run / "metrics.csv", time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        lines = table.read_text().splitlines() if table.exists() else []
        if len(lines) > 1 and int(lines[-1].partition(",")[0] or 0) >= step:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def table_of(run: Path) -> list[list[str]]:
    """All columns but the time."""
    return [[f for i, f in enumerate(line.split(",")) if i != 1] for line in (run / "metrics.csv").read_text().split()]


def test_weights_average_weighting_and_order_of_the_data_survive_a_kill(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trainer(whole).train()
    killed_at(broken, 70)
    assert trainer(broken).state()["step"] == 0  # it is the folder that knows better
    trainer(broken).train()
    ends = [split(load_tree(run / "state" / "step-00000150")) for run in (whole, broken)]
    (plain, tensors), (plain_again, again) = ends
    assert {**plain, "seconds": 0} == {**plain_again, "seconds": 0}
    assert tensors.keys() == again.keys()
    for wanted in ("weighting.coefficients", "weighting.gram", "denoiser.net"):
        assert any(wanted in name for name in tensors), wanted
    assert not any(name for name in tensors if not torch.equal(tensors[name], again[name]))
    assert table_of(whole) == table_of(broken)
    assert len(table_of(whole)) == 151
