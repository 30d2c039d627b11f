"""Broken inputs by the hundred: each succeeds, or fails in one clear line, and harms nothing that was there."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from drilling.child import Ran, command
from drilling.meeting import Met, unseemly
from drilling.scene import Scene, often
from drilling.sources import checkpoints, command_line, data_sets, frames, pages, rewards, run_files
from drilling.sources.given import EXECUTED, Source
from drilling.trial import Trial, Verdict, lost, sums, untidy

SOURCES: dict[str, Source] = {
    "command line": command_line.draw,
    "run files": run_files.draw,
    "data sets": data_sets.draw,
    "checkpoints": checkpoints.draw,
    "rewards": rewards.draw,
    "frames": frames.draw,
    "pages": pages.draw,
}
"""Trials take them by turns."""
SECONDS = 10.0
"""Of a processor, that a command may take on a broken input."""
PATIENCE = 6
"""How much longer it may take by the clock, on a machine that others share."""
MEMORY = 2 << 30
"""Bytes that a command may take beyond those of a process that has only imported everything."""


def trials(
    scene: Scene, count: int, seed: int, seconds: float = SECONDS, sources: Sequence[str] | None = None
) -> Iterator[Trial]:
    """Input n is the same whatever the count is, and whichever sources are wanted."""
    names = list(SOURCES)
    for number in range(count):
        if sources is None or names[number % len(names)] in sources:
            yield Trial(f"fuzz:{number}", _Fuzzed(scene, names[number % len(names)], f"{seed} {number}", seconds))


@dataclass
class _Fuzzed:
    scene: Scene
    source: str
    seed: str
    seconds: float

    def __call__(self, place: Path) -> Verdict:
        """Breaks something, runs the command, looks at what it said and at what it left."""
        self.scene.copied(place)
        given = SOURCES[self.source](random.Random(self.seed), place)
        before = sums(place)
        met, during = Met(), None
        if given.meeting is not None:
            during = given.meeting.held(met)
        ran = command(given.args, place, after=PATIENCE * self.seconds, memory=MEMORY, before=often, during=during)
        odd = met.odd or self._odd(ran, server=during is not None)
        refused = met.refused > 0 if during is not None else ran.code != 0
        if (place / EXECUTED).exists():
            odd = "a pickle was executed"
        elif (ran.code != 0 or during is not None) and (harmed := lost(before, place)):
            odd = odd or f"it failed, and {', '.join(harmed)} is lost or changed"
        said = "\n".join((*met.said, ran.out + ran.err))
        shown = f"kedge {' '.join(given.args)}\n[{self.source}] {given.what}\nended with {ran.code}\n{said}"
        what = "refused" if refused else "succeeded"
        return Verdict(odd, {what: 1, f"{self.source}: {what}": 1, "odd": int(bool(odd))}, shown)

    def _odd(self, ran: Ran, server: bool) -> str:
        """Of a server as well, which has to end well once it is told to."""
        if ran.killed or ran.busy > self.seconds:
            return f"it took {ran.busy:.1f} s, or more, of a processor"
        if ran.code < 0:
            return f"signal {-ran.code} ended it"
        if server:
            return unseemly(ran.err) or (f"the server ended with {ran.code}: {ran.last}" if ran.code else "")
        return "" if ran.code == 0 else untidy(ran.err)
