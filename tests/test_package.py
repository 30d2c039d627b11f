"""What holds for the package as a whole: its version, its weight, its files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import jaxtyping
import pytest
import torch

import kedge
from wheel import installed

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

IMPORT = """
import sys, time
import torch
before, start = set(sys.modules), time.perf_counter()
import kedge
seconds = time.perf_counter() - start
import json
print(json.dumps({"seconds": seconds, "modules": sorted(set(sys.modules) - before), "file": kedge.__file__}))
"""

AGAIN = """
import os, sys, time
import torch
for _ in range(6):
    sys.stdout.flush()
    if os.fork() == 0:
        start = time.perf_counter()
        import kedge
        print(time.perf_counter() - start, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""

EVERY_NAME = """
import json, sys
import torch
before = set(sys.modules)
import kedge
mazes = {"Scores", "compare", "envs", "evaluate", "export", "load", "plan", "recipes"}  # with their physics
names = [name for name in kedge.__all__ if name not in mazes and getattr(kedge, name) is not None]
print(json.dumps({"names": names, "modules": sorted(set(sys.modules) - before)}))
"""

HEAVY = {
    "matplotlib",
    "rich",
    "tensorboard",
    "trackio",
    "wandb",
    "scipy",
    "ot",
    "diffusers",
    "gymnasium",
    "mujoco",
    "beartype",
}


def python(code: str, *options: str, cwd: Path | None = None) -> str:
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_version_is_the_same_everywhere() -> None:
    assert kedge.__version__ == PROJECT["version"] == importlib.metadata.version("kedge")


def test_types_are_shipped() -> None:
    assert Path(kedge.__file__).with_name("py.typed").is_file()


def test_import_costs_less_than_three_tenths_of_a_second_beyond_torch() -> None:
    """Six processes that have imported torch import kedge; the first writes the byte code."""
    seconds = [float(line) for line in python(AGAIN).splitlines()][1:]
    assert len(seconds) == 5
    assert statistics.median(seconds) < 0.3, f"seconds: {seconds}"


def test_import_leaves_the_heavy_parts_alone() -> None:
    loaded = {name.partition(".")[0] for name in json.loads(python(IMPORT))["modules"]}
    assert "kedge" in loaded
    assert not loaded & HEAVY


def test_public_names_are_there_and_the_kernel_s_leave_the_heavy_parts_alone() -> None:
    assert all(getattr(kedge, name) is not None for name in kedge.__all__)
    found = json.loads(python(EVERY_NAME))
    assert set(found["names"]) >= {"sample", "Denoiser", "paths", "solvers", "grids", "hooks", "exact", "nets"}
    assert not {name.partition(".")[0] for name in found["modules"]} & HEAVY


@pytest.mark.skipif(os.environ.get("KEDGE_NO_HOOK") == "1", reason="the import hook is switched off")
def test_annotated_shapes_are_checked_while_the_tests_run() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        kedge.Noise(torch.zeros(2, 2, dtype=torch.int64))


def test_every_requirement_carries_its_reason() -> None:
    lines = [line.strip() for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()]
    requirements = [
        *PROJECT["dependencies"],
        *(r for extra in PROJECT["optional-dependencies"].values() for r in extra),
    ]
    for requirement in requirements:
        assert any(re.match(rf'"{re.escape(requirement)}",\s+# \S', line) for line in lines), (
            f"{requirement} has no reason"
        )


def tracked() -> list[Path]:
    """The files that are, or are about to be, under version control."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]
    generated = re.compile(r"(^|/)(\.[^/]*|__pycache__|_build|build|dist)/")
    return [p for p in ROOT.rglob("*") if p.is_file() and not generated.search(p.relative_to(ROOT).as_posix())]


def test_files_name_no_machine_and_no_registry() -> None:
    forbidden = re.compile(
        r"(?<![\w.])/(?:work|root|home|opt|Users)/\w|index[-_]url|find[-_]links|trusted[-_]host|npm[-_]config"
    )
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a figure
            continue
        name = path.relative_to(ROOT)
        found += [
            f"{name}:{n}: {line.strip()}" for n, line in enumerate(text.splitlines(), 1) if forbidden.search(line)
        ]
    assert not found, "\n".join(found)


def test_wheel_works_outside_the_tree(tmp_path: Path) -> None:
    site = installed(tmp_path)
    inside = {path.relative_to(site / "kedge").as_posix() for path in (site / "kedge").rglob("*") if path.is_file()}
    source = ROOT / "src" / "kedge"
    assert inside == {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    found = json.loads(python(f"import sys; sys.path.insert(0, {str(site)!r})\n" + IMPORT, "-I", cwd=tmp_path))
    assert Path(found["file"]).is_relative_to(site)


@pytest.mark.parametrize(
    "target",
    ["demo", "test", "lint", "types", "layers", "unit", "wheel", "slow", "docs", "mutate", "bench", "clean", "help"],
)
def test_make_lists_its_targets(target: str) -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(rf"^  make {target} +\S", done.stdout, re.MULTILINE)
