"""The demo at small scale, as a stranger has it: from the wheel, outside the source tree, stopped on its way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from wheel import installed


class Page(HTMLParser):
    """What a report is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.titles, self.addresses, self.unsaid = "", [], [], []
        self.inside: str = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.inside = tag
        named = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag == "img" and not named.get("alt"):
            self.unsaid.append(named)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("style", "script"):
            return
        self.words += data
        if self.inside in ("h1", "h2"):
            self.titles.append(data)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel in it."""
    folder = tmp_path_factory.mktemp("demo")
    installed(folder)
    return folder


def begun(place: Path, *args: str) -> subprocess.Popen[str]:
    """The installed command, as a shell would run it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KEDGE"))}
    env = kept | {"PYTHONPATH": str(place / "site"), "HOME": str(place), "OMP_NUM_THREADS": "1"}
    command = [str(place / "site" / "bin" / "kedge"), *args]
    return subprocess.Popen(command, cwd=place, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ran(place: Path, *args: str) -> tuple[int, str, str]:
    process = begun(place, *args)
    out, err = process.communicate(timeout=110)
    return process.returncode, out, err


def test_the_demo_runs_from_the_wheel_is_stopped_goes_on_and_leaves_a_report(place: Path) -> None:
    process = begun(place, "demo", "--small")
    first = place / "runs/demo-small/state/step-00000000"
    while not first.exists():  # training has begun
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run the same command again to go on" in err or "goes on from what is finished" in err
    assert "Traceback" not in err

    code, out, err = ran(place, "demo", "--small", "--json")
    assert code == 0, err
    check(place, json.loads(out))
    weights = (place / "runs/demo-small/weights.safetensors").read_bytes()

    begin = time.perf_counter()
    code, out, err = ran(place, "demo", "--small")
    assert (code, time.perf_counter() - begin < 30) == (0, True), err
    assert "training: already finished" in err
    assert re.search(r"(?m)^score +[\d.]+ latched", out)
    assert out.splitlines()[-1].split()[-1] == str(place / "runs/demo-small/report.html")
    assert (place / "runs/demo-small/weights.safetensors").read_bytes() == weights


def check(place: Path, found: dict[str, Any]) -> None:
    """The result and the report that it names."""
    assert list(found["phases"]) == ["demonstrations", "training", "evaluation", "report"]
    assert found["commit"].endswith(", installed")  # not the checkout's
    assert list(found["beside"]) == ["controller", "nearest", "astar", "optimal"]
    assert all(row["latched"] for row in found["beside"].values())
    report = Path(found["report"])
    assert report.parent == place / "runs" / "demo-small"
    assert report.stat().st_size < 10e6
    page = Page(report.read_text(encoding="utf-8"))
    assert [address for address in page.addresses if not address.startswith(("#", "data:"))] == []
    assert page.unsaid == []
    assert f"{found['latched']['score']['mean']:.1f}" in page.words
    assert "latched" in page.words
    for row in ("The data's controller", "Nearest logged segment", "A* and P-D", "Time-optimal", "not D4RL's files"):
        assert row in page.words
    assert {"Scores", "The worst and the best episodes", "How it plans", "How it learned"} <= set(page.titles)
