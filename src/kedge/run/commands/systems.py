"""`kedge systems`: what is implemented, and what shows that it works."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from kedge.errors import InputError
from kedge.run.catalogue import System, of_family
from kedge.run.commands.command import Command, Outcome, parsed, short, store


@dataclass(frozen=True, kw_only=True)
class Systems(Command):
    """Lists the systems that are implemented: each with its paper, its code, its test, and a figure with its origin."""

    names: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME...]", help="Say all of these.")
    ] = ()
    family: Annotated[str | None, tyro.conf.arg(metavar="F")] = None
    """Those of one family, and all of each."""

    def run(self) -> Outcome:
        """Reads the catalogue; nothing is measured here."""
        found = of_family(self.family)
        if self.names:
            known = {system.id: system for system in found}
            if unknown := [name for name in self.names if name not in known]:
                raise InputError(f"there is no system {unknown[0]!r}; kedge systems lists them")
            found = [known[name] for name in self.names]
        data = {"systems": [system.json() for system in found]}
        lines = _whole(found) if self.names or self.family else _listed(found)
        if self.out is not None:
            store(self.out, data)
            lines.append(f"stored in {short(self.out)}")
        return Outcome(lines, data)


def _whole(systems: Sequence[System]) -> list[str]:
    """All of each, with an empty line between."""
    return [line for system in systems for line in ("", *_indented(system.id, system.said()))][1:]


def _listed(systems: Sequence[System]) -> list[str]:
    """A line or two of each, family by family."""
    lines: list[str] = []
    for family in dict.fromkeys(system.family for system in systems):
        lines += _indented(family, {system.id: system.what for system in systems if system.family == family})
        lines.append("")
    return [*lines, f"{len(systems)} systems; kedge systems NAME says all of one, --family all of a family"]


def _indented(head: str, said: Mapping[str, str]) -> list[str]:
    """A head, and below it names with what is said of them, folded to the terminal's width."""
    width, room = max(map(len, said)), min(shutil.get_terminal_size().columns, 120)
    lines = [head]
    for name, words in said.items():
        start = f"  {name:<{width}}  "
        lines += textwrap.wrap(
            words, room, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
    return lines


def parse(args: Sequence[str]) -> Systems:
    """The flags."""
    return parsed(Systems, args, "systems")
