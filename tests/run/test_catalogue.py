"""The catalogue is held to the truth: code and tests are there, and numbers are those of the results."""

from __future__ import annotations

import importlib
import json
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kedge.run import cli
from kedge.run.catalogue import Stored, System, catalogue, families
from wheel import ROOT

NAMED = pytest.mark.parametrize("system", catalogue(), ids=lambda system: system.id)


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_every_test_of_a_system_has_an_entry_and_is_marked() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/systems/test_*.py")}
    assert found == {system.test for system in catalogue() if system.test.startswith("tests/systems/")}
    for path in found:
        assert "pytestmark = pytest.mark.system\n" in text(path), path


def test_ids_and_papers_are_single() -> None:
    assert len({system.id for system in catalogue()}) == len(catalogue())
    papers = [system.paper for system in catalogue() if system.paper is not None]
    assert len(set(papers)) == len(papers)
    assert len({system.title for system in catalogue()}) == len(catalogue())


@NAMED
def test_its_code_imports(system: System) -> None:
    assert system.code
    for place in system.code:
        module, _, name = place.partition(":")
        assert hasattr(importlib.import_module(module), name), place


@NAMED
def test_its_test_is_there(system: System) -> None:
    assert "def test_" in text(system.test)
    if system.test.startswith("tests/systems/"):
        assert Path(system.test).stem == f"test_{system.id}"


@NAMED
def test_its_figure_is_demanded_or_measured(system: System) -> None:
    """Lines of the test, which are there to the letter, or stored results; and no decimal that is in neither."""
    assert re.search(r"\d", system.figure)
    assert system.demands or system.stored
    for line in system.demands:
        assert "assert" in line
        assert f"    {line}" in text(system.test)
    known = {float(n) for line in system.demands for n in re.findall(r"(?<![\w.])\d[\d_]*\.?\d*(?:e-?\d+)?", line)}
    known |= {float(one.value) for one in system.stored}
    assert {float(n) for n in re.findall(r"\d+\.\d+", system.figure)} <= known


@NAMED
def test_its_numbers_are_those_of_the_results(system: System) -> None:
    for one in system.stored:
        assert re.search(rf"(?<![\d.]){re.escape(one.value)}(?![\d]|\.\d)", system.figure), one.value
        assert measured(one) == one.value


def measured(one: Stored) -> str:
    """The mean over files of what is there, with as many digits as the value has."""
    values = []
    for file in sorted((ROOT / "benchmarks" / "results").glob(one.files)):
        found: Any = json.loads(file.read_text(encoding="utf-8"))
        for key in one.at.split("."):
            found = found[int(key) if isinstance(found, list) else key]
        values.append(float(np.mean(found)))
    assert values, f"no results {one.files}"
    return f"{statistics.fmean(values):.{len(one.value.partition('.')[2])}f}"


@NAMED
def test_its_page_is_there(system: System) -> None:
    page, _, anchor = system.page.partition("#")
    heads = re.findall(r"^#+ (.+)$", text(f"docs/{page}"), re.M)
    assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@NAMED
def test_its_lines_are_lines(system: System) -> None:
    """They stand in tables and terminals: one line each, that no full stop ends; papers by their numbers, if any."""
    for line in (system.title, system.what, system.figure):
        assert line == line.strip().rstrip(".")
        assert not {"\n", "|"} & set(line)
    if system.paper is not None:
        assert re.fullmatch(r"arXiv:\d{4}\.\d{4,5}", system.paper)
        assert system.link == "https://arxiv.org/abs/" + system.paper[6:]


def test_a_paper_without_a_number_is_its_title() -> None:
    system = replace(catalogue()[0], paper=None)
    assert system.link is None
    assert system.said()["paper"] == system.title


# --- kedge systems


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = cli.main(["systems", *args])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_lists_them_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(capsys)
    assert code == 0
    heads = [line for line in out.splitlines() if line and not line.startswith(" ")]
    assert heads == [
        *families(),
        f"{len(catalogue())} systems; kedge systems NAME says all of one, --family all of a family",
    ]
    assert re.findall(r"^  (\w+)  ", out, re.M) == [system.id for system in catalogue()]
    assert max(map(len, out.splitlines())) <= 80


def test_a_family_and_a_name_are_said_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    of_planner = [system.id for system in catalogue() if system.family == "planner"]
    _, out, _ = run(capsys, "--family", "planner")
    assert [line for line in out.splitlines() if line and not line.startswith(" ")] == of_planner
    _, out, _ = run(capsys, "fv")
    assert out.splitlines()[0] == "fv"
    assert "measured: benchmarks/results/fv/headline-fv-large-*.json" in out
    _, out, _ = run(capsys, "ddpo")
    assert "(demanded by tests/systems/test_ddpo.py)" in out


def test_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, out, _ = run(capsys, "--json", "--family", "solver", "--out", str(tmp_path / "systems.json"))
    rows = json.loads(out)["systems"]
    assert {row["family"] for row in rows} == {"solver"}
    row = next(row for row in rows if row["id"] == "dpm_solver_pp")
    assert {"family", "title", "paper", "what", "code", "test", "figure", "origin", "page"} <= row.keys()
    assert json.loads((tmp_path / "systems.json").read_text()) == json.loads(out)


def test_what_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--family", "planers")
    assert (code, err.count("\n")) == (2, 1)
    assert "known are align, guidance, net, planner" in err
    code, _, err = run(capsys, "fw")
    assert (code, err) == (2, "kedge: there is no system 'fw'; kedge systems lists them\n")
