"""Where a result says that it comes from."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from kedge.run import provenance as room
from kedge.run.provenance import checkout, commit, machine, provenance, versions


def repository(root: Path) -> str:
    """A checkout with the package in `src/kedge`, committed."""
    (root / "src" / "kedge").mkdir(parents=True)
    (root / "src" / "kedge" / "code.py").write_text("1\n")
    (root / "notes.txt").write_text("1\n")

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *who, *words], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    return git("rev-parse", "HEAD")


def test_a_commit_says_when_watched_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = repository(tmp_path)
    monkeypatch.setattr(room, "checkout", lambda: tmp_path)
    (tmp_path / "notes.txt").write_text("2\n")
    (tmp_path / "src" / "new.py").write_text("untracked\n")
    assert commit() == head
    assert commit(("src", "notes.txt")) == f"{head} and changes"
    (tmp_path / "src" / "kedge" / "code.py").write_text("2\n")
    assert commit() == f"{head} and changes"


def test_a_checkout_is_where_the_package_lies_as_source(tmp_path: Path) -> None:
    repository(tmp_path)
    assert checkout(tmp_path / "src" / "kedge") == tmp_path
    installed = tmp_path / "lib" / "site-packages" / "kedge"  # within somebody else's repository
    assert checkout(installed) is None
    assert checkout(tmp_path / "bare" / "src" / "kedge") is None


def test_without_a_checkout_or_without_git_the_version_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = f"kedge {version('kedge')}, installed"
    monkeypatch.setattr(room, "checkout", lambda: None)
    assert commit() == installed
    monkeypatch.setattr(room, "checkout", lambda: tmp_path)  # no repository
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == installed
    monkeypatch.setenv("PATH", "")
    assert commit() == installed


def test_the_machine_and_the_time_are_named() -> None:
    found = provenance()
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["machine"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["machine"]["cpu"]
    assert abs(datetime.fromisoformat(found["when"]) - datetime.now(UTC)) < timedelta(seconds=5)
    assert found["versions"]["numpy"] == version("numpy")


def test_torch_is_not_loaded_to_count_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    assert machine()["threads"] is None
    assert "torch" not in sys.modules


def test_what_is_not_installed_is_left_out() -> None:
    assert versions(("numpy", "no-such-package-at-all")) == {"numpy": version("numpy")}
