"""`kedge data inspect FILE`: what is in a data set, before anything is trained on it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from kedge.errors import InputError
from kedge.run.commands.command import Command, Outcome, parsed, store

HELP = """usage: kedge data inspect FILE [flags]

Looks into a data set: sizes, ranges, rewards, where it comes from.
kedge data inspect --help lists the flags.
"""


@dataclass(frozen=True, kw_only=True)
class Inspect(Command):
    """Says what is in a data set: steps, episodes, ranges, rewards, and where it comes from."""

    file: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="FILE",
            help="An .npz or .hdf5 file, a zarr store, a Minari or LeRobot set, a folder that kedge has saved.",
        ),
    ]

    def run(self) -> Outcome:
        """Opens and summarises; a set that cannot be used is one line and exit code 2."""
        self.place()
        import kedge.data
        from kedge.data.summary import summary

        found = summary(kedge.data.open(self.file, finite=False))
        width = max(len(name) for name, _ in found.lines())
        if self.out is not None:
            store(self.out, found.json())
        return Outcome(
            [f"{name:<{width}}  {said}" for name, said in found.lines()], {"file": self.file, **found.json()}
        )


def parse(args: Sequence[str]) -> Inspect:
    """`inspect` and its flags."""
    if not args or args[0] in ("-h", "--help"):
        (sys.stdout if args else sys.stderr).write(HELP)
        raise SystemExit(0 if args else 2)
    if args[0] != "inspect":
        raise InputError(f"kedge data: there is no {args[0]!r}; it is kedge data inspect FILE")
    return parsed(Inspect, args[1:], "data inspect")
