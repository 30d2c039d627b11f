"""The catalogue: every system that is implemented, and what shows that it works.

A file a family lies in `kedge/run/systems`. The entries do not stand in the code that they are about, for a system is
seldom one file: most are a few parts that a line puts together, and one part serves many systems. Here they are also
read in milliseconds, without the libraries that the systems themselves want. A test holds every entry to the truth.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from kedge.errors import InputError


@dataclass(frozen=True)
class Stored:
    """A number of a figure that follows from results under `benchmarks/results`."""

    files: str
    """Which ones: a pattern of file names."""
    at: str
    """Where in each of them: names and places of a list, with dots between."""
    value: str
    """The mean over these files, as the figure says it."""


@dataclass(frozen=True)
class System:
    """One system of the catalogue."""

    id: str
    family: str
    title: str
    what: str
    """What it is, in a line."""
    code: tuple[str, ...]
    """Where it is, the most telling part first: `module:name`."""
    test: str
    figure: str
    """What shows that it works, in a line with a number in it."""
    page: str
    """Where the documentation speaks of it."""
    paper: str | None = None
    """The paper's number, `arXiv:2205.09991`. Of a paper that has none, or whose number nobody has checked, the title
    stands alone."""
    demands: tuple[str, ...] = ()
    """The lines of the test that demand the figure."""
    stored: tuple[Stored, ...] = ()
    """The results that its numbers are taken from, where they were measured."""

    @property
    def origin(self) -> str:
        """Where the figure comes from."""
        measured = dict.fromkeys(f"benchmarks/results/{one.files}" for one in self.stored)
        said = [f"measured: {', '.join(measured)}"] if measured else []
        return "; ".join([*said, *([f"demanded by {self.test}"] if self.demands else [])])

    @property
    def link(self) -> str | None:
        """Where the paper is, if it has a number."""
        return None if self.paper is None else f"https://arxiv.org/abs/{self.paper.removeprefix('arXiv:')}"

    def json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self) | {"origin": self.origin}

    def said(self) -> dict[str, str]:
        """All of it, for a person."""
        return {
            "paper": self.title if self.paper is None else f"{self.title} ({self.paper})",
            "is": self.what,
            "code": ", ".join(self.code),
            "test": self.test,
            "figure": f"{self.figure} ({self.origin})",
            "page": f"docs/{self.page}",
        }


@cache
def catalogue() -> tuple[System, ...]:
    """Every system, family by family."""
    found: list[System] = []
    for file in sorted(files("kedge.run").joinpath("systems").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            family = file.name.removesuffix(".toml")
            rows = tomllib.loads(file.read_text(encoding="utf-8")).get("system", [])
            found += [_system(row, family) for row in rows]
    return tuple(found)


def families() -> list[str]:
    """Their names, each once."""
    return list(dict.fromkeys(system.family for system in catalogue()))


def of_family(family: str | None) -> list[System]:
    """The systems of one family, or all."""
    if family is not None and family not in families():
        raise InputError(f"--family {family}: there is none of that name; known are {', '.join(families())}")
    return [system for system in catalogue() if family in (None, system.family)]


def _system(row: dict[str, Any], family: str) -> System:
    stored = tuple(Stored(**one) for one in row.get("stored", ()))
    several = {name: tuple(row.get(name, ())) for name in ("code", "demands")}
    return System(**{**row, **several, "family": family, "stored": stored})
