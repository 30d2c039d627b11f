"""The drill, a small one, with what it is made of: it has to notice what it is there to notice."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import drill
from drilling import disks, fuzz, meeting
from drilling.child import Ran
from drilling.healthy import Beside
from drilling.hostile import Raw
from drilling.meeting import Visit, unseemly
from drilling.scene import REWARD, Scene, logged
from drilling.trial import Trial, Verdict, apart, content, lost, sums, untidy

pytestmark = pytest.mark.timeout(600)  # what is drilled starts some eighty processes, on cores that others use as well

KILLS, DISKS, FUZZ = 4, 1, 63
"""Of each of two commands; writes and files that are refused, of each of two commands; inputs."""


@pytest.fixture(scope="module")
def drilled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `make drill` stores, of a few trials of each kind, in a process of its own."""
    place = tmp_path_factory.mktemp("drill")
    counts = ["--kills", str(KILLS), "--disks", str(DISKS), "--commands", "train", "inspect", "--fuzz", str(FUZZ)]
    command = [sys.executable, drill.__file__, *counts, "--jobs", "2", "--place", str(place)]
    command += ["--seconds", "60", "--out", str(place / "drill.json")]  # others may be at work here
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert (place / "drill.json").is_file(), done.stderr[-3000:]
    found = json.loads((place / "drill.json").read_text())
    assert done.returncode == int(any(kind["odd"] for kind in found.values())), done.stderr[-3000:]
    assert not list(place.glob("drill-*")), "it leaves nothing behind"
    return found


def odd(drilled: dict[str, Any], kind: str) -> list[str]:
    return [f"{one['trial']}: {one['odd']}" for one in drilled[kind]["odd"]]


def test_runs_go_on_from_kills_to_the_same_bits(drilled: dict[str, Any]) -> None:
    assert odd(drilled, "kill") == []
    counts = drilled["kill"]["counts"]
    assert counts["trials"] == 2 * KILLS
    assert counts["kills"] >= KILLS


def test_full_disks_are_one_line_and_then_no_hindrance(drilled: dict[str, Any]) -> None:
    if not disks.permitted():
        pytest.skip("namespaces are not permitted here")
    assert odd(drilled, "disk") == []
    counts = drilled["disk"]["counts"]
    assert counts["full"] + counts["went on"] == counts["trials"] == 4 * DISKS
    assert counts["full"] > 0


def test_broken_inputs_are_one_line_and_harm_nothing(drilled: dict[str, Any]) -> None:
    assert odd(drilled, "fuzz") == []
    counts = drilled["fuzz"]["counts"]
    assert counts["trials"] == FUZZ == counts["refused"] + counts["succeeded"]
    assert min(counts.get(f"{source}: refused", 0) for source in fuzz.SOURCES) > 0


@pytest.mark.parametrize(
    ("err", "wrong"),
    [
        ("kedge: there is no such folder; give one\n", ""),
        ("note: 3 of 4\nkedge: there is no such folder; give one\n", ""),
        ("Traceback (most recent call last):\n  x\nkedge: there is no such folder; give one\n", "a traceback"),
        ("kedge: there is no such folder; give one\nand then\n", "not one line"),
        ("kedge: there is no such folder; give one\n" * 2, "not one line"),
        ("", "not one line"),
        ("kedge: no\n", "a last line of 9"),
        ("kedge: " + "no " * 999, "a last line of 3003"),
    ],
)
def test_what_is_said_is_one_line_at_the_end(err: str, wrong: str) -> None:
    assert untidy(err).startswith(wrong)
    assert bool(untidy(err)) == bool(wrong)


def test_runs_are_compared_but_for_times(tmp_path: Path) -> None:
    def run(name: str, seconds: float, loss: float, weights: bytes = b"0") -> dict[str, str]:
        state = tmp_path / name / "state" / "step-1"
        state.mkdir(parents=True)
        (tmp_path / name / "metrics.csv").write_text(f"step,seconds,loss\n1,{seconds},{loss}\n")
        (tmp_path / name / "evaluation.json").write_text(json.dumps({"when": seconds, "success": 1.0}))
        told = {"digest": str(seconds), "tree": {"seconds": seconds, "step": 1}, "tensors": "sha"}
        (state / "state.json").write_text(json.dumps(told))
        (tmp_path / name / "weights.safetensors").write_bytes(weights)
        return content(tmp_path / name)

    whole = run("whole", 1.0, 0.5)
    assert apart(whole, run("slower", 2.0, 0.5)) == []
    assert apart(whole, run("other", 1.0, 0.6)) == ["metrics.csv"]
    assert apart(whole, run("moved", 1.0, 0.5, b"1")) == ["weights.safetensors"]
    (tmp_path / "slower" / ".writing-weights.safetensors").touch()
    assert apart(whole, content(tmp_path / "slower")) == [".writing-weights.safetensors"]


def test_what_was_there_is_looked_for(tmp_path: Path) -> None:
    for name in ("kept", "changed", "gone"):
        (tmp_path / name).write_text(name)
    before = sums(tmp_path)
    (tmp_path / "changed").write_text("else")
    (tmp_path / "gone").unlink()
    (tmp_path / "new").touch()
    assert lost(before, tmp_path) == ["changed", "gone"]


def test_every_write_that_takes_room_is_one_whose_last_page_is_refused() -> None:
    """Two pages at once, one given back, one and another taken: three writes."""
    assert [(one.moment, one.more) for one in disks.taken([1, 1, 3, 2, 3, 3, 4])] == [(1, 1), (3, 0), (5, 0)]


@pytest.mark.parametrize(
    ("code", "err", "wrong"),
    [
        (2, f"kedge: runs/mine/recipe.json could not be written ({disks.FULL})\n", ""),
        (0, f"runs/mine: no checkpoint ({disks.FULL})\n", ""),
        (0, "", "it ended well, and never met the full disk"),
        (2, "kedge: runs/mine/recipe.json could not be written\n", "code 2, and the line does not say that runs/mine"),
        (2, f"kedge: something could not be written ({disks.FULL})\n", "code 2, and the line does not say that runs/m"),
        (1, "Traceback (most recent call last):\n", "code 1 and a traceback"),
    ],
)
def test_a_full_disk_has_to_be_said(code: int, err: str, wrong: str) -> None:
    found = disks.wrong(Ran([], code, "", err, 1.0, 1.0), "runs/mine")
    assert found.startswith(wrong)
    assert bool(found) == bool(wrong)


def test_of_a_run_s_checkpoints_the_last_is_compared(tmp_path: Path) -> None:
    for name in ("state/step-00000003/a", "state/step-00000012/a", "weights", "report.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = disks.steady(tmp_path)
    assert set(found) == {"state/step-00000012/a", "weights", "report.html"}
    assert [name for name, own in found.items() if not own] == ["report.html"]


def test_a_disk_holds_what_it_holds_and_no_more(tmp_path: Path) -> None:
    """In a process of its own, for it has mounts of its own."""
    if not disks.permitted():
        pytest.skip("namespaces are not permitted here")
    (tmp_path / "run").mkdir()
    pid = os.fork()
    if pid == 0:
        wrong = "it failed"
        try:
            wrong = str(_filled(disks.Disk(tmp_path / "disk"), tmp_path / "run"))
        finally:
            (tmp_path / "told").write_text(wrong)
            os._exit(0)
    os.waitpid(pid, 0)
    assert (tmp_path / "told").read_text() == str([True, True, False, True, False, True])
    assert list((tmp_path / "run").iterdir()) == [], "nobody else sees it"


def _filled(disk: disks.Disk, folder: Path) -> list[bool]:
    """Whether pages, and then files, could be had: with room, one more, another, and so on."""
    disk.mounted(folder)
    had = []
    for how, tries in ((None, 1), ({"pages": 1}, 2), ({"files": 1}, 2), ({}, 1)):
        disk.fill(**how) if how is not None else None
        for _ in range(tries):
            try:
                (folder / f"{len(had)}").write_bytes(bytes(0 if how and "files" in how else disks.PAGE))
                had.append(True)
            except OSError:
                had.append(False)
    return had


@pytest.mark.parametrize(
    ("err", "wrong"),
    [
        ("serving runs/fv at ws://127.0.0.1:1; Ctrl-C stops it\nthe agent failed: a nan\n", ""),
        ("Traceback (most recent call last):\n  x\nValueError: no\n", "a traceback"),
        ("again\n" * 50, "50 lines"),
    ],
)
def test_a_server_s_log_is_a_few_lines(err: str, wrong: str) -> None:
    assert unseemly(err).startswith(wrong)
    assert bool(unseemly(err)) == bool(wrong)


def closing(code: int, reason: str) -> bytes:
    data = code.to_bytes(2, "big") + reason.encode()
    return bytes([0x88, len(data)]) + data


WHY = b'{"refused": "late", "why": "it took too long"}'


@pytest.mark.parametrize(
    ("answer", "refused", "wrong"),
    [
        (closing(1008, "a seed is for a reset"), True, ""),
        (bytes([0x81, len(WHY)]) + WHY, True, ""),
        (b"", False, ""),
        (bytes([0x82, 1]) + b"x", False, ""),
        (closing(1008, ""), True, "closed with 1008, and no reason"),
        (closing(1008, "one\ntwo"), True, "closed with 1008, and no reason"),
        (closing(1011, "the agent failed"), True, "closed with 1011"),
        (closing(1006, "it broke"), True, "closed with 1006"),
        (bytes([0x81, 13]) + b'{"refused":1}', True, "refused without a line that says why"),
        (None, True, "cut off without a word"),
    ],
)
def test_a_stranger_is_refused_with_a_reason_or_taken(
    answer: bytes | None, refused: bool, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a server that answers one thing to whatever it is sent. A code of the agent's own failing is for a message
    that may make it fail.
    """
    monkeypatch.setattr(meeting, "HEARS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as left:

        def serve() -> None:
            there, _ = listening.accept()
            there.recv(4096)
            there.sendall(b"HTTP/1.1 101 Yes\r\n\r\n" + bytes([0x82, 1]) + b"m")
            there.recv(4096)
            if answer is None:
                there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                there.close()
            else:
                there.sendall(answer)
                left.callback(there.close)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"ws://127.0.0.1:{listening.getsockname()[1]}"
        found = Visit("it", Raw.framed(Raw.BINARY, b"x")).pay(url, "/", left)
        thread.join(10)
    assert found[0] == refused
    assert found[1].startswith(f"it: {wrong}" if wrong else "")
    assert bool(found[1]) == bool(wrong)


class Told(Beside):
    """Is answered 0, 1, 2 and so on; alone it would be `wrong` at 1."""

    def __init__(self, wrong: float, fails: bool = False) -> None:
        super().__init__()
        self.wrong, self.fails = wrong, fails

    def answers(self, url: str) -> Iterator[tuple[Any, Any]]:
        for number in range(100):
            yield None, (float(number),)
            if self.fails:
                raise ConnectionError("it is gone")

    def told(self, place: Path) -> Iterator[Any]:
        return iter([(self.wrong if number == 1 else float(number),) for number in range(len(self.asked))])


@pytest.mark.parametrize(
    ("healthy", "wrong"),
    [
        (Told(1.0), ""),
        (Told(np.nextafter(1.0, 2.0)), "answer 1 of 2 to the client beside it is another"),
        (Told(1.0, fails=True), "the client beside it failed: ConnectionError: it is gone"),
    ],
)
def test_the_client_beside_has_its_answers_bit_for_bit(
    healthy: Told, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drilling.healthy.PAUSE", 30.0)
    healthy.begin("")
    found = healthy.end(Path())
    assert found.startswith(wrong)
    assert bool(found) == bool(wrong)


def test_a_server_that_is_gone_before_it_listens_is_not_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("kedge: no such run\n")
    assert meeting.address(log, lambda: False) is None
    log.write_text("playing runs/fv at http://127.0.0.1:81/\n")
    assert meeting.address(log, lambda: True) == "ws://127.0.0.1:81"


def test_sizes_are_spread_over_all() -> None:
    assert disks.spread(list(range(1, 101)), 4) == [13, 38, 63, 88]
    assert disks.spread([1, 2, 3], None) == disks.spread([1, 2, 3], 9) == [1, 2, 3]


@pytest.mark.parametrize("source", fuzz.SOURCES)
def test_an_input_can_be_drawn_again(source: str, tmp_path: Path) -> None:
    """From the same seed the same, in what is broken and in what is asked."""
    small_scene(tmp_path / "scene")
    drawn = []
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        place = Scene(tmp_path / "scene").copied(tmp_path / name)
        given = fuzz.SOURCES[source](random.Random(seed), place)
        files = {name: own for name, own in sums(place).items() if not name.endswith((".npz", ".hdf5", ".h5"))}
        drawn.append((given.args, given.what, files))
    assert drawn[0] == drawn[1] != drawn[2]


def small_scene(root: Path) -> None:
    """Files like those of a scene."""
    import torch
    from safetensors.torch import save_file

    for run in ("fv", "al", "half"):
        for step in (9, 12):
            state = root / "runs" / run / "state" / f"step-{step:08d}"
            state.mkdir(parents=True)
            (state / "state.json").write_text(json.dumps({"tree": {"step": step, "run": run}}))
            save_file({"a": torch.zeros(3)}, state / "tensors.safetensors")
        for name in ("recipe.json", "evaluation.json", "alignment.json"):
            (root / "runs" / run / name).write_text(json.dumps({"fields": {"a": [1, 2], "b": run}, "seed": 0}))
        for name in ("weights", "measured"):
            save_file({"a": torch.zeros(3)}, root / "runs" / run / f"{name}.safetensors")
    (root / "data").mkdir()
    np.savez(root / "data" / "plain.npz", **logged(60))
    (root / "mine.py").write_text(REWARD)


@pytest.mark.parametrize(("verdict", "code"), [(Verdict("", {"full": 1}), 0), (Verdict("it is lost", {"full": 2}), 1)])
def test_what_is_odd_is_said_with_how_to_repeat_it(
    verdict: Verdict, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(place: Path) -> Verdict:
        raise LookupError("lost its way")

    found = drill.Drill(tmp_path, jobs=2, loud=False).all([Trial("disk:train:3", lambda place: verdict)])
    said = capsys.readouterr().out
    assert (len(found.odd), found.counts["disk"]) == (code, Counter({"trials": 1, **verdict.counts}))
    assert ("python tools/drill.py --only disk:train:3" in said) == bool(code)
    failed = drill.Drill(tmp_path, jobs=1, loud=False).all([Trial("kill:train:0", broken)])
    assert "the drill itself failed" in failed.odd[0]["odd"]
    assert "lost its way" in failed.odd[0]["odd"]
