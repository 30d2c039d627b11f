"""Where figures go."""

from __future__ import annotations

import csv
import errno
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kedge.errors import InputError
from kedge.train import CheckpointError, CsvFile, Sink, TensorBoard, Trackio, WandB


def table(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_new_figure_gets_a_column_and_the_rows_before_stay(tmp_path: Path) -> None:
    sink = CsvFile()
    sink.open(tmp_path, 0)
    sink.write(10, {"loss": 0.1})
    sink.write(20, {"loss": 1 / 3, "odd, name": 2.0})
    sink.write(30, {"odd, name": 4.0})
    sink.close()
    assert table(tmp_path) == [
        {"step": "10", "loss": "0.1", "odd, name": ""},
        {"step": "20", "loss": repr(1 / 3), "odd, name": "2"},
        {"step": "30", "loss": "", "odd, name": "4"},
    ]


def test_rows_beyond_the_checkpoint_and_half_rows_are_dropped(tmp_path: Path) -> None:
    sink = CsvFile()
    sink.open(tmp_path, 0)
    for step in (10, 20, 30):
        sink.write(step, {"loss": 0.5, "lr": 1e-3})
    sink.close()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4")
    again = CsvFile()
    again.open(tmp_path, 20)
    again.write(30, {"loss": 0.25, "lr": 1e-3})
    again.close()
    assert [(row["step"], row["loss"]) for row in table(tmp_path)] == [("10", "0.5"), ("20", "0.5"), ("30", "0.25")]


def test_infinite_figures_are_written_and_other_tables_are_refused(tmp_path: Path) -> None:
    sink = CsvFile()
    sink.open(tmp_path, 0)
    sink.write(1, {"loss": float("inf"), "other": float("nan")})
    sink.close()
    assert table(tmp_path) == [{"step": "1", "loss": "inf", "other": "nan"}]
    (tmp_path / "metrics.csv").write_bytes(b"step,loss\n1,\xb7\n")
    with pytest.raises(
        InputError, match=r"metrics.csv cannot be read \('utf-8' codec .*; remove it to go on without it$"
    ):
        CsvFile().open(tmp_path, 0)
    (tmp_path / "metrics.csv").write_text("name,age\nAnn,3\n")
    with pytest.raises(
        ValueError, match=r"metrics.csv is not a table of figures by step \(its header begins with 'name'\)$"
    ):
        CsvFile().open(tmp_path, 0)


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from kedge.train import TensorBoard
for start, steps in ((0, (10, 20, 30)), (20, (30, 40))):
    sink = TensorBoard()
    sink.open(Path({str(tmp_path)!r}), start)
    for step in steps:
        sink.write(step, {{"loss": start + step}})
    sink.close()
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator({str(tmp_path)!r}).Reload().Scalars("loss")
print([(event.step, event.value) for event in found])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.stdout == "[(10, 10.0), (20, 20.0), (30, 50.0), (40, 60.0)]\n", done.stderr


class Recorded(ModuleType):
    """Stands for a service's client: notes what it is asked, and refuses arguments that the real one does not have."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any]] = []

    def init(self, *, project: str, name: str, resume: str, **rest: str) -> Recorded:
        assert rest.keys() <= {"id", "dir"}
        self.calls.append(("init", (project, name, resume)))
        return self

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.calls.append(("log", (step, metrics)))

    def finish(self) -> None:
        self.calls.append(("finish", None))


@pytest.mark.parametrize(("module", "kind"), [("trackio", Trackio), ("wandb", WandB)])
def test_services_are_told_the_run_and_its_figures(
    module: str, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Recorded(module)
    monkeypatch.setitem(sys.modules, module, client)
    sink = kind(project="maze")
    assert isinstance(sink, Sink)
    sink.open(tmp_path / "run-7", 0)
    sink.write(5, {"loss": 0.5})
    sink.close()
    expected = [("init", ("maze", "run-7", "allow")), ("log", (5, {"loss": 0.5})), ("finish", None)]
    assert client.calls == expected


@pytest.mark.parametrize(("extra", "kind"), [("trackio", Trackio), ("wandb", WandB), ("tensorboard", TensorBoard)])
def test_an_absent_extra_is_one_line_with_the_command(extra: str, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(InputError, match=rf"^{extra}, .*, is not installed: pip install 'kedge\[{extra}\]'$"):
        kind()


def test_figures_that_find_no_room_are_one_line_and_leave_the_table_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = CsvFile()
    sink.open(tmp_path, 0)
    sink.write(10, {"loss": 0.5})
    assert sink._file is not None
    sink._file.close()
    sink._file = open("/dev/full", "a")  # noqa: SIM115  as full as a disk can be
    with pytest.raises(
        CheckpointError, match=r"metrics.csv could not be written \(No space left on device\); what was"
    ):
        sink.write(20, {"loss": 0.25})
    sink.close()
    assert [row["step"] for row in table(tmp_path)] == ["10"]

    def full(*names: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    again = CsvFile()
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(CheckpointError, match=r"metrics.csv could not be written \(No space left on device\)"):
        again.open(tmp_path, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
