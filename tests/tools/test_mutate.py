"""The mutation runner on a package of one line: what it calls red, and what it refuses to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mutate

RUNNER = Path(mutate.__file__)

SOURCE = """
def double(x):
    return x + x


def half(x):
    return x / 2
"""

TESTS = """
import pytest
import tiny
import time


def test_double():
    assert tiny.double(3) == 6


class TestHalf:
    @pytest.mark.parametrize("x", [0, 4])
    def test_half(self, x):
        assert tiny.half(x) * 2 == x


def test_blind():
    tiny.double(1)


def test_red_anyway():
    assert tiny.double(1) == 3


@pytest.mark.skip(reason="of no use")
def test_left_out():
    assert tiny.double(3) == 6


@pytest.mark.slow
def test_slow():
    assert tiny.double(3) == 6


def test_loop():
    while tiny.double(1) != 2:
        time.sleep(0.01)


@pytest.fixture
def doubled():
    return tiny.double(1)


def test_fixture(doubled):
    assert doubled == 2


def test_settings():
    assert "two = 2" in open(tiny.__file__.replace("__init__.py", "settings.toml")).read()
"""

SETTINGS = """
[tool.pytest.ini_options]
addopts = ["--import-mode=importlib", "-m", "not slow"]
markers = ["slow: takes long"]
"""


def mutation(
    name: str, tests: list[str], old: str = "x + x", new: str = "x * x", file: str = "src/tiny/__init__.py"
) -> str:
    pairs = {"name": name, "file": file, "old": old, "new": new, "tests": tests}
    return "[[mutation]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in pairs.items())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {"src/tiny/__init__.py": SOURCE, "tests/test_tiny.py": TESTS, "pyproject.toml": SETTINGS}
    for name, text in {**files, "src/tiny/settings.toml": "two = 2\n"}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(project: Path, *definitions: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    (project / "tests/test_tiny.mutations.toml").write_text("\n".join(definitions))
    # The tree's own package must not be what the tests find; nor are the plugins of its tests of use here, which take
    # most of the time that pytest needs to start.
    environment = {**os.environ, "PYTHONPATH": "", "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, str(RUNNER), "--root", str(project), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The word that stands before each mutation's name."""
    lines = [line.split() for line in done.stdout.splitlines() if "test_tiny.py::" in line and not line.startswith(" ")]
    return {" ".join(words[3:]).partition("::")[2]: words[0] for words in lines}


def lock_of(project: Path) -> dict[str, str]:
    return json.loads((project / "tests/mutations.lock").read_text())


def test_red_survived_and_unusable_are_told_apart(project: Path) -> None:
    done = run(
        project,
        mutation("square", ["test_double"]),
        mutation("one case of a parametrised test", ["TestHalf::test_half"], "x / 2", "x / 3"),
        mutation("the class is named", ["TestHalf"], "x / 2", "x / 3"),
        mutation("the case is named", ["TestHalf::test_half[4"], "x / 2", "x / 3"),
        mutation("the code raises in a fixture", ["test_fixture"], "x + x", "x[0]"),
        mutation("slow tests count", ["test_slow"]),
        mutation("a file that is no code", ["test_settings"], "two = 2", "two = 3", "src/tiny/settings.toml"),
        mutation("nobody looks", ["test_blind"]),
        mutation("one of two looks", ["test_double", "test_blind"]),
        mutation("only a case it does not change", ["TestHalf::test_half[0]"], "x / 2", "x / 3"),
    )
    red = ["square", "one case of a parametrised test", "the class is named", "the case is named"]
    red += ["the code raises in a fixture", "slow tests count", "a file that is no code"]
    green = ["nobody looks", "one of two looks", "only a case it does not change"]
    assert outcomes(done) == {**dict.fromkeys(red, "red"), **dict.fromkeys(green, "GREEN")}
    assert "7 red, 3 survived, 0 unusable" in done.stdout
    assert done.returncode == 1
    assert set(lock_of(project)) == {f"tests/test_tiny.py::{name}" for name in red}


PROVES_NOTHING = {
    "rotted": (mutation("m", ["test_double"], "x + y"), "has 'x + y' 0 times, not once"),
    "ambiguous": (mutation("m", ["test_double"], "return x"), "has 'return x' 2 times, not once"),
    "no file": (mutation("m", ["test_double"], file="src/tiny/gone.py"), "there is no src/tiny/gone.py"),
    "no such test": (mutation("m", ["test_missing"]), "has no test 'test_missing'"),
    "a name's beginning is not its name": (mutation("m", ["test_dou"]), "has no test 'test_dou'"),
    "red anyway": (mutation("m", ["test_red_anyway"]), "red without the mutation: AssertionError"),
    "left out": (mutation("m", ["test_left_out"]), "without the mutation: test_left_out is left out"),
    "no Python": (mutation("m", ["test_double"], new="x +"), "is no Python"),
    "no TOML": (mutation("m", ["test_settings"], "two = 2", "two =", "src/tiny/settings.toml"), "is no TOML"),
    "a name that is not there": (mutation("m", ["test_double"], new="x + y"), "proves nothing: NameError"),
    "breaks the collection": (mutation("m", ["test_double"], "def double(x):", "def double(x=y):"), "not be collected"),
    "no end": (mutation("m", ["test_loop"]), "stopped after 6 s"),
}


@pytest.mark.parametrize("case", PROVES_NOTHING)
def test_what_proves_nothing_is_not_red(project: Path, case: str) -> None:
    definition, says = PROVES_NOTHING[case]
    done = run(project, definition, options=("--limit", "6") if case == "no end" else ())
    assert outcomes(done) == {"m": "error"}, done.stdout + done.stderr
    assert says in done.stdout
    assert done.returncode == 1
    assert lock_of(project) == {}


UNREADABLE = {
    "keys are missing": ("[[mutation]]\nname = 'a'\n", "look at file, old, new, tests"),
    "unknown key": (mutation("a", ["test_double"]) + "colour = 'red'\n", "look at colour"),
    "no test": (mutation("a", []), "it needs a test"),
    "no change": (mutation("a", ["test_double"], "x", "x"), "`old` and `new` differ"),
    "a name twice": (mutation("a", ["test_double"]) * 2, "used twice"),
    "no TOML": ("[[mutation", "test_tiny.mutations.toml"),
    "another table": ("[settings]\n", "expected [[mutation]] tables"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_definition_that_cannot_be_read_is_one_line(project: Path, case: str) -> None:
    definition, says = UNREADABLE[case]
    done = run(project, definition)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_definition_needs_its_test_file(project: Path) -> None:
    (project / "tests/test_gone.mutations.toml").write_text(mutation("a", ["test_double"]))
    with pytest.raises(mutate.MutationError, match=r"there is no tests/test_gone\.py beside it"):
        mutate.load(project)


def chosen(project: Path, sample: int = 0) -> list[str]:
    return [one.name for one in mutate.choose(project, mutate.load(project), sample)]


def test_changed_are_examined_again_and_the_rest_is_sampled(project: Path) -> None:
    definitions = [mutation(f"square {i}", ["test_double"]) for i in range(3)]
    half = mutation("third", ["TestHalf"], "x / 2", "x / 3")
    assert run(project, *definitions, half).returncode == 0
    before = lock_of(project)
    assert chosen(project) == []
    assert len(chosen(project, sample=2)) == 2
    assert len(chosen(project, sample=9)) == 4
    edited = mutation("third", ["TestHalf"], "x / 2", "x / 4")
    sampled = outcomes(run(project, *definitions, edited, options=("--changed", "--sample", "1")))
    assert sampled.pop("third") == "red"
    assert len(sampled) == 1
    assert lock_of(project) == before  # a sample records nothing
    assert chosen(project) == ["third"]
    assert outcomes(run(project, *definitions, edited, options=("--changed",))) == {"third": "red"}
    assert chosen(project) == []
    for name in ("src/tiny/__init__.py", "tests/test_tiny.py"):
        path = project / name
        text = path.read_text()
        path.write_text(text + "\n")
        assert len(chosen(project)) == 4
        path.write_text(text)


def test_nothing_changed_is_no_failure(project: Path) -> None:
    (project / "tests/mutations.lock").write_text("{}")
    assert mutate.main(["--root", str(project), "--changed"]) == 0


def test_lock_forgets_what_survives_and_what_is_gone(project: Path) -> None:
    run(project, mutation("a", ["test_double"]), mutation("b", ["test_double"]), mutation("c", ["test_double"]))
    run(project, mutation("a", ["test_blind"]), mutation("b", ["test_double"]), options=("::a",))
    assert set(lock_of(project)) == {"tests/test_tiny.py::b"}


def test_the_tree_is_left_as_it_was(project: Path) -> None:
    run(project, mutation("square", ["test_double"]))
    assert (project / "src/tiny/__init__.py").read_text() == SOURCE
