"""The reliability drill: kedge's commands under kills, full disks and broken inputs.

    python tools/drill.py                             all of it, an hour or so
    python tools/drill.py --kills 8 --disks 1 --fuzz 70
    python tools/drill.py --only fuzz:1234            one trial again, with all that the command said

What must hold is said in docs/reliability.md. One process imports kedge and forks a child for every trial and every
command in it, so that a trial costs what its commands cost. Ends with 0 if all holds, with 1 if anything does not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from drilling import disks, fuzz, kills
from drilling.child import prepare
from drilling.scene import Scene
from drilling.trial import Trial, Verdict


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    args = _parsed(argv)
    begun = time.perf_counter()
    prepare()
    from kedge.run.provenance import provenance

    made = provenance()
    root = Path(tempfile.mkdtemp(prefix="drill-", dir=args.place))
    try:
        trials = _trials(args, root)
        found = Drill(root, args.jobs, bool(args.only)).all(trials)
    finally:
        if not args.only:
            shutil.rmtree(root, ignore_errors=True)
    result = _result(args, found, made, time.perf_counter() - begun)
    if args.out:
        stored = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
        stored = again(stored, result, args.only) if args.only else stored | result
        args.out.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    for line in summary(result):
        print(line)
    return 1 if any(kind["odd"] for kind in result.values()) else 0


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="runs that are killed, of each command")
    parser.add_argument("--disks", type=int, default=None, help="writes and files refused, of each command; or all")
    parser.add_argument("--commands", nargs="*", choices=list(disks.COMMANDS), help="whose disks are filled")
    parser.add_argument("--fuzz", type=int, default=1000, help="broken inputs")
    parser.add_argument("--sources", nargs="*", choices=list(fuzz.SOURCES), help="of broken inputs")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--seconds", type=float, default=fuzz.SECONDS, help="that a command may take on a broken input")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time")
    parser.add_argument("--only", nargs="*", metavar="TRIAL", help="these alone, such as fuzz:7; shows what was said")
    parser.add_argument("--out", type=Path, help="where the result goes, as JSON")
    parser.add_argument("--place", type=Path, help="where trials have their folders")
    return parser.parse_args(argv)


def _trials(args: argparse.Namespace, root: Path) -> list[Trial]:
    """What is to be tried; undisturbed runs are made here."""
    scene = Scene.made(root / "scene")
    wanted = {only.partition(":")[0] for only in args.only or ()}
    found: list[Trial] = []
    if args.kills and (not wanted or "kill" in wanted):
        known = {name: kills.undisturbed(scene, name, root / f"whole-{name}") for name in kills.COMMANDS}
        found += kills.trials(scene, known, args.kills, args.seed)
    if args.disks != 0 and (not wanted or "disk" in wanted):
        if disks.permitted():
            names = list(args.commands or disks.COMMANDS)
            found += disks.trials(
                scene, [disks.known(scene, name, root / f"need-{name}") for name in names], args.disks
            )
        else:
            print("full disks are left out: namespaces are not permitted here")
    if args.fuzz and (not wanted or "fuzz" in wanted):
        numbers = [int(only.partition(":")[2]) + 1 for only in args.only or () if only.startswith("fuzz:")]
        found += fuzz.trials(scene, max(numbers, default=args.fuzz), args.seed, args.seconds, args.sources)
    return found if not args.only else [trial for trial in found if trial.name in args.only]


@dataclass
class Drill:
    """Trials at work, each in a process of its own."""

    root: Path
    jobs: int
    loud: bool
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    odd: list[dict[str, str]] = field(default_factory=list)
    done: int = 0

    def all(self, trials: Iterable[Trial]) -> Drill:
        """One after the other, `jobs` at a time."""
        waiting, running = list(trials)[::-1], dict[int, Trial]()
        self.total, self.begun = len(waiting), time.perf_counter()
        while waiting or running:
            while waiting and len(running) < self.jobs:
                trial = waiting.pop()
                running[self._start(trial)] = trial
            pid, _ = os.wait()
            self._end(running.pop(pid))
        return self

    def _place(self, trial: Trial) -> Path:
        return self.root / trial.name.replace(":", "-")

    def _start(self, trial: Trial) -> int:
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        place = self._place(trial)
        try:
            place.mkdir()
            verdict = trial.go(place / "here")
        except BaseException:
            verdict = Verdict(f"the drill itself failed: {traceback.format_exc()}")
        (place / "verdict.json").write_text(json.dumps(verdict.json()))
        sys.stdout.flush()
        os._exit(0)

    def _end(self, trial: Trial) -> None:
        place = self._place(trial)
        told = json.loads((place / "verdict.json").read_text())
        self.done += 1
        kind = self.counts.setdefault(trial.kind, Counter())
        kind.update(told["counts"] | {"trials": 1})
        if told["odd"]:
            self.odd.append({"trial": trial.name, "odd": told["odd"], "said": told["shown"][-1500:]})
            print(f"{trial.name}: {told['odd']}\n    again: python tools/drill.py --only {trial.name}", flush=True)
        if self.loud:
            print(f"{trial.name}, in {place}:\n{told['shown']}")
            return
        shutil.rmtree(place, ignore_errors=True)
        if self.done % 25 == 0 or self.done == self.total:
            spent = time.perf_counter() - self.begun
            print(f"{self.done} of {self.total} trials, {spent:.0f} s, {len(self.odd)} odd", flush=True)


def _result(args: argparse.Namespace, drill: Drill, made: dict[str, Any], seconds: float) -> dict[str, dict[str, Any]]:
    """What came of each kind of trial, with the commit, the machine and what was asked for."""
    asked = {"kill": args.kills, "disk": args.disks, "fuzz": args.fuzz}
    return {
        kind: {
            **made, "asked": asked[kind], "seed": args.seed, "jobs": args.jobs, "seconds": round(seconds),
            "counts": dict(sorted(found.items())), "odd": [one for one in drill.odd if one["trial"].startswith(kind)],
        }
        for kind, found in drill.counts.items()
    }  # fmt: skip


def again(stored: dict[str, Any], result: dict[str, Any], tried: Sequence[str]) -> dict[str, Any]:
    """The stored result, in which trials that were not as promised, and were tried again, have their new verdict."""
    found = dict(stored)
    for kind, one in result.items():
        old = stored[kind]
        mended = [trial["trial"] for trial in old["odd"] if trial["trial"] in tried]
        kept = [trial for trial in old["odd"] if trial["trial"] not in tried]
        note = {"trials": sorted({*old.get("again", {}).get("trials", ()), *mended}), "commit": one["commit"]}
        found[kind] = old | {"odd": [*kept, *one["odd"]], "again": note}
    return found


def summary(result: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each kind of trial, and the verdict."""
    lines = [f"{kind}: {', '.join(f'{n} {what}' for what, n in one['counts'].items())}" for kind, one in result.items()]
    odd = sum(len(one["odd"]) for one in result.values())
    return [*lines, f"{odd} not as promised" if odd else "all as promised"]


if __name__ == "__main__":
    sys.exit(main())
