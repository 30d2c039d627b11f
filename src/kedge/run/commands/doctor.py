"""`kedge doctor`: whether this machine is fit, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from kedge.run.commands.command import Command, Outcome, parsed, short, store


@dataclass(frozen=True, kw_only=True)
class Doctor(Command):
    """Looks at versions, devices, extras, rendering, threads and disk, and tries a little of everything: a walk against
    an exact answer, a step of training, of a simulator, a checkpoint there and back. A line each, with what to do where
    something is amiss; the exit code is 1 where something keeps kedge from working.
    """

    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Changes nothing here: the tests draw from the same numbers always."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Is tried as well, where it is given."""

    def run(self) -> Outcome:
        """Looks, and tries."""
        self.place()
        from kedge.run.doctor import examined, fit

        findings = examined()
        whole = fit(findings)
        lines = [finding.line for finding in findings]
        lines.append("all is well" if whole else "not fit: see the lines that begin with bad")
        data = {"fit": whole, "findings": [finding.json() for finding in findings]}
        if self.out is not None:
            store(self.out, data)
            lines.append(f"stored in {short(self.out)}")
        return Outcome(lines, data, 0 if whole else 1)


def parse(args: Sequence[str]) -> Doctor:
    """The flags."""
    return parsed(Doctor, args, "doctor")
