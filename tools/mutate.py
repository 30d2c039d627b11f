"""Mutations: each breaks one line of the code on purpose, and the tests that guard that line have to go red.

A mutation is named in a file beside the test: `tests/walk/test_solvers.mutations.toml` is for `test_solvers.py`.

    [[mutation]]
    name = "ancestral step without its noise"
    file = "src/kedge/walk/solvers/ddpm.py"
    old = "+ std * z"
    new = ""
    tests = ["test_terminal_moments"]

`tests` are node names within the test file: a function, a class, `TestClass::test_f`, or the beginning of a
parametrised one. They must be green without the mutation, and every one of them red with it: by a failure, or by an
error that the broken code raises. What cannot be collected, or fails because the new line is no sound Python, proves
nothing and is an error, as is a mutation whose `old` no longer occurs exactly once.

A process that has imported torch is forked for each mutation, so that a run costs what its tests cost; the package
itself is imported afresh from a copy of `src` in which the one line is changed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

import pytest

SUFFIX = ".mutations.toml"
LOCK = Path("tests/mutations.lock")
FORK = multiprocessing.get_context("forkserver")


class MutationError(ValueError):
    """A mutation, or the file that defines it, cannot be used as it stands."""


@dataclass(frozen=True)
class Mutation:
    """One line of `file` replaced; `tests` of `test_file` are to notice."""

    test_file: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def key(self) -> str:
        """What identifies it in the lock file and in the table."""
        return f"{self.test_file}::{self.name}"


@dataclass(frozen=True)
class Verdict:
    """What became of one mutation."""

    key: str
    outcome: Literal["red", "GREEN", "error"]
    detail: str = ""
    seconds: float = 0.0


# --- definitions ------------------------------------------------------------------------------------------------------


def load(root: Path) -> list[Mutation]:
    """All mutations under `root/tests`, in the order of their files."""
    found = [mutation for path in sorted(root.glob(f"tests/**/*{SUFFIX}")) for mutation in _load_file(root, path)]
    twice = [key for key, count in Counter(mutation.key for mutation in found).items() if count > 1]
    if twice:
        raise MutationError(f"{twice[0]}: this name is used twice; rename one")
    return found


def _load_file(root: Path, path: Path) -> list[Mutation]:
    where = path.relative_to(root).as_posix()
    test_file = where.removesuffix(SUFFIX) + ".py"
    if not (root / test_file).is_file():
        raise MutationError(f"{where}: there is no {test_file} beside it")
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise MutationError(f"{where}: {error}") from None
    if set(entries) != {"mutation"}:
        raise MutationError(f"{where}: expected [[mutation]] tables and nothing else, got {sorted(entries)}")
    return [_parse(where, test_file, entry) for entry in entries["mutation"]]


def _parse(where: str, test_file: str, entry: dict[str, Any]) -> Mutation:
    expected = {"name": str, "file": str, "old": str, "new": str, "tests": list}
    label = f"{where}, {entry.get('name', 'a mutation without a name')!r}"
    wrong = [key for key in expected if not isinstance(entry.get(key), expected[key])] + sorted(
        set(entry) - set(expected)
    )
    if wrong:
        raise MutationError(f"{label}: expected {', '.join(expected)}; look at {', '.join(wrong)}")
    if not all(isinstance(test, str) for test in entry["tests"]):
        raise MutationError(f"{label}: `tests` is a list of names")
    if not entry["tests"] or not entry["old"] or "\n" in entry["old"] + entry["new"] or entry["old"] == entry["new"]:
        raise MutationError(f"{label}: it needs a test, and one line whose `old` and `new` differ")
    return Mutation(test_file, entry["name"], entry["file"], entry["old"], entry["new"], tuple(entry["tests"]))


def mutated(root: Path, mutation: Mutation) -> str:
    """The text of its file with the one line replaced."""
    path = root / mutation.file
    if not mutation.file.startswith("src/") or not path.is_file():
        raise MutationError(f"there is no {mutation.file} under src")
    text = path.read_text(encoding="utf-8")
    count = text.count(mutation.old)
    if count != 1:
        raise MutationError(
            f"{mutation.file} has {mutation.old!r} {count} times, not once: bring the mutation up to date"
        )
    text = text.replace(mutation.old, mutation.new)
    _refuse_unsound(text, path)
    return text


def _refuse_unsound(text: str, path: Path) -> None:
    """What cannot even be read makes anything go red. Other files than code and TOML are taken as they are."""
    try:
        if path.suffix == ".py":
            compile(text, path.name, "exec", dont_inherit=True)
        elif path.suffix == ".toml":
            tomllib.loads(text)
    except (SyntaxError, tomllib.TOMLDecodeError) as error:
        what, said = ("TOML", error) if isinstance(error, tomllib.TOMLDecodeError) else ("Python", error.msg)
        raise MutationError(f"the new line is no {what} ({said}), so anything would go red") from None


def fingerprint(root: Path, mutation: Mutation) -> str:
    """Changes with the definition, the file it changes and the test file."""
    digest = hashlib.sha256(json.dumps(asdict(mutation), sort_keys=True).encode())
    for name in (mutation.file, mutation.test_file):
        path = root / name
        digest.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    return digest.hexdigest()[:32]


# --- in the forked process --------------------------------------------------------------------------------------------


def answers_to(node: str, name: str) -> bool:
    """Whether a collected node (`TestA::test_b[case]`) is meant by a name in a definition."""
    return node == name or node.startswith((f"{name}[", f"{name}::")) or ("[" in name and node.startswith(name))


@dataclass(eq=False)
class Watch:
    """A pytest plugin: runs only the named tests and notes how each of them ends."""

    names: Sequence[str]
    source: Path
    found: set[str] = field(default_factory=set)
    red: dict[str, str] = field(default_factory=dict)
    unsound: list[str] = field(default_factory=list)

    def _names_of(self, item: pytest.Item) -> list[str]:
        node = item.nodeid.partition("::")[2]
        return [name for name in self.names if answers_to(node, name)]

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leaves the named tests."""
        chosen = [item for item in items if self._names_of(item)]
        self.found = {name for item in chosen for name in self._names_of(item)}
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected says nothing about the line."""
        if not report.passed:
            self.unsound.append(f"{report.nodeid or 'a test file'} could not be collected")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Runs no further case of a test that is red already."""
        return True if all(name in self.red for name in self._names_of(item)) else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Judges by the exception: the report may be red for another reason, such as a budget of time."""
        if call.excinfo is None:
            return
        error = call.excinfo.value
        line = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        from_source = any(Path(entry.path).is_relative_to(self.source) for entry in call.excinfo.traceback)
        if isinstance(error, pytest.skip.Exception | pytest.xfail.Exception):
            self.unsound.append(f"{item.name} is left out: {error}")
        elif isinstance(error, NameError | ImportError | SyntaxError):
            self.unsound.append(f"{item.name} fails because the code is unsound, which proves nothing: {line}")
        elif call.when == "call" or (call.when == "setup" and from_source):
            self.red.update(dict.fromkeys(self._names_of(item), line))
        else:
            self.unsound.append(f"{item.name} fails in {call.when}, outside the code under test: {line}")


def watch_tests(root: str, folder: str, test_file: str, names: Sequence[str]) -> None:
    """Runs the named tests against `folder/src` and leaves what was seen in `folder/seen.json`; never returns."""
    os.setsid()  # so that what the tests start can be ended with them
    log = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(root)
    source = f"{folder}/src"
    sys.path.insert(0, source)
    sys.dont_write_bytecode = True
    # A test may start Python itself. Its time is limited from outside, and a failing example need not be the smallest.
    os.environ.update(PYTHONPATH=source, PYTEST_TIMEOUT="0", HYPOTHESIS_PROFILE="mutation")
    watch = Watch(names, Path(source))
    status = pytest.main([test_file, "-q", "-m", "", "-p", "no:cacheprovider", "--tb=short"], plugins=[watch])
    real = Path(root) / "src"
    modules = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    if any(Path(file).is_relative_to(real) for file in modules):
        watch.unsound.append("the tests import the package from the working tree, not from the copy")
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not watch.unsound and watch.found:
        watch.unsound.append(f"pytest ended with {status!r}")
    seen = {"found": sorted(watch.found), "red": watch.red, "unsound": watch.unsound}
    Path(folder, "seen.json").write_text(json.dumps(seen), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


# --- in the process that starts them ----------------------------------------------------------------------------------


@dataclass
class Job:
    """One forked run of some tests of one file, with or without a mutation."""

    test_file: str
    names: tuple[str, ...]
    mutation: Mutation | None = None
    text: str = ""


@dataclass
class Seen:
    """What a job's process has left."""

    job: Job
    seconds: float
    found: list[str] = field(default_factory=list)
    red: dict[str, str] = field(default_factory=dict)
    unsound: list[str] = field(default_factory=list)
    log: str = ""


@dataclass
class Running:
    """A job under way."""

    job: Job
    folder: Path
    process: Any
    started: float

    @classmethod
    def start(cls, root: Path, job: Job) -> Running:
        """Copies `src`, changes the line, forks."""
        folder = Path(tempfile.mkdtemp(prefix="mutation-"))
        shutil.copytree(root / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        if job.mutation is not None:
            (folder / job.mutation.file).write_text(job.text, encoding="utf-8")
        process = FORK.Process(target=watch_tests, args=(str(root), str(folder), job.test_file, job.names))
        process.start()
        return cls(job, folder, process, time.perf_counter())

    def ended(self, limit: float) -> bool:
        """Whether it is over; ends it, and what it started, when it is over its time."""
        if not self.process.is_alive():
            return True
        if time.perf_counter() - self.started < limit:
            return False
        self.kill()
        return True

    def kill(self) -> None:
        """Ends it and what it started: they are a session of their own, which no interrupt reaches."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()

    def seen(self, limit: float) -> Seen:
        """Reads what it left, and clears up."""
        seen = Seen(self.job, time.perf_counter() - self.started)
        left = self.folder / "seen.json"
        if left.is_file():
            for name, value in json.loads(left.read_text(encoding="utf-8")).items():
                setattr(seen, name, value)
        elif seen.seconds >= limit:
            seen.unsound.append(f"stopped after {limit:g} s; choose a mutation, or a test, that ends")
        else:
            seen.unsound.append("its process died before the tests ended")
        log = self.folder / "log"
        seen.log = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        shutil.rmtree(self.folder, ignore_errors=True)
        return seen


def run_jobs(root: Path, jobs: Iterable[Job], parallel: int, limit: float, report: Callable[[Seen], None]) -> None:
    """Runs the jobs, `parallel` at a time, and reports each as it ends."""
    waiting, running = deque(jobs), list[Running]()
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                running.append(Running.start(root, waiting.popleft()))
            wait([one.process.sentinel for one in running], timeout=0.2)
            for one in [one for one in running if one.ended(limit)]:
                running.remove(one)
                report(one.seen(limit))
    finally:  # only an interrupt leaves any
        for one in running:
            one.kill()
            shutil.rmtree(one.folder, ignore_errors=True)


def baseline_jobs(mutations: Iterable[Mutation]) -> list[Job]:
    """For each test file, one run of all tests that its mutations name, on the code as it is."""
    names: dict[str, dict[str, None]] = {}
    for mutation in mutations:
        names.setdefault(mutation.test_file, {}).update(dict.fromkeys(mutation.tests))
    return [Job(test_file, tuple(of_file)) for test_file, of_file in names.items()]


def unusable(mutation: Mutation, baseline: Seen) -> str:
    """Why its tests cannot judge it: they are missing, left out, or red as it is. Empty when they can."""
    if baseline.unsound:
        return f"without the mutation: {baseline.unsound[0]}"
    missing = [name for name in mutation.tests if name not in baseline.found]
    if missing:
        return f"{mutation.test_file} has no test {missing[0]!r}"
    red = [name for name in mutation.tests if name in baseline.red]
    return f"{red[0]} is red without the mutation: {baseline.red[red[0]]}" if red else ""


def judge(mutation: Mutation, seen: Seen) -> Verdict:
    """Red when every named test is; what proves nothing is an error."""
    if seen.unsound:
        return Verdict(mutation.key, "error", seen.unsound[0], seen.seconds)
    green = [name for name in mutation.tests if name not in seen.red]
    if green:
        return Verdict(mutation.key, "GREEN", f"survived: {', '.join(green)} did not notice", seen.seconds)
    return Verdict(mutation.key, "red", seen.red[mutation.tests[0]], seen.seconds)


def show(verdict: Verdict, log: str = "") -> None:
    """A line of the table; an error also shows the end of what its process said."""
    detail = "" if verdict.outcome == "red" else f"\n        {verdict.detail}"
    print(f"{verdict.outcome:<6} {verdict.seconds:5.1f} s  {verdict.key}{detail}", flush=True)
    if verdict.outcome == "error" and log:
        print("".join(f"        | {line}\n" for line in log.splitlines()[-12:]), end="", flush=True)


def examine(root: Path, mutations: Sequence[Mutation], parallel: int, limit: float) -> list[Verdict]:
    """Examines the mutations: first their tests on the code as it is, then each mutation."""
    verdicts: list[Verdict] = []

    def conclude(verdict: Verdict, log: str = "") -> None:
        verdicts.append(verdict)
        show(verdict, log)

    texts: dict[str, str] = {}
    for mutation in mutations:
        try:
            texts[mutation.key] = mutated(root, mutation)
        except MutationError as error:
            conclude(Verdict(mutation.key, "error", str(error)))
    sound = [mutation for mutation in mutations if mutation.key in texts]

    baselines: dict[str, Seen] = {}
    run_jobs(root, baseline_jobs(sound), parallel, 2 * limit, lambda seen: baselines.update({seen.job.test_file: seen}))
    jobs = []
    for mutation in sound:
        baseline = baselines[mutation.test_file]
        why = unusable(mutation, baseline)
        if why:
            conclude(Verdict(mutation.key, "error", why), baseline.log)
        else:
            jobs.append(Job(mutation.test_file, mutation.tests, mutation, texts[mutation.key]))

    def report(seen: Seen) -> None:
        assert seen.job.mutation is not None
        conclude(judge(seen.job.mutation, seen), seen.log)

    run_jobs(root, jobs, parallel, limit, report)
    return verdicts


# --- which, and what is remembered ------------------------------------------------------------------------------------


def read_lock(root: Path) -> dict[str, str]:
    """The fingerprints under which mutations were last seen red."""
    path = root / LOCK
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_lock(root: Path, all_mutations: Sequence[Mutation], verdicts: Iterable[Verdict]) -> None:
    """Remembers what was red, forgets what was not and what is no longer defined."""
    prints = {mutation.key: fingerprint(root, mutation) for mutation in all_mutations}
    lock = {key: old for key, old in read_lock(root).items() if key in prints}
    for verdict in verdicts:
        lock.pop(verdict.key, None)
        if verdict.outcome == "red":
            lock[verdict.key] = prints[verdict.key]
    (root / LOCK).write_text(json.dumps(lock, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def choose(root: Path, mutations: Sequence[Mutation], sample: int) -> list[Mutation]:
    """Those that changed since they were last red, and a sample of the rest, another one for each commit."""
    lock = read_lock(root)
    rest = [mutation for mutation in mutations if lock.get(mutation.key) == fingerprint(root, mutation)]
    drawn = random.Random(_commit(root)).sample(rest, min(sample, len(rest)))
    return [mutation for mutation in mutations if mutation not in rest or mutation in drawn]


def _commit(root: Path) -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def preload(root: Path) -> list[str]:
    """The modules to import once, before forking: `[tool.mutate] preload` of pyproject.toml."""
    path = root / "pyproject.toml"
    settings = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return settings.get("tool", {}).get("mutate", {}).get("preload", ["pytest"])


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Break one line at a time and demand that the tests notice.")
    parser.add_argument("only", nargs="*", help="examine those whose 'test file::name' contains one of these")
    parser.add_argument("--changed", action="store_true", help="those that changed since they were last red")
    parser.add_argument(
        "--sample", type=int, default=0, metavar="N", help="with --changed: and N of the others, recording nothing"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time (2)")
    parser.add_argument("--limit", type=float, default=90.0, metavar="S", help="seconds for one mutation (90)")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the status is 0 when every mutation examined went red."""
    options = options_of(arguments)
    root = options.root.resolve()
    try:
        mutations = load(root)
    except MutationError as error:
        print(f"mutate: {error}", file=sys.stderr)
        return 2
    chosen = choose(root, mutations, options.sample) if options.changed else mutations
    chosen = [one for one in chosen if not options.only or any(part in one.key for part in options.only)]
    if options.only and not chosen:
        print(f"mutate: no mutation's name contains {' or '.join(options.only)}", file=sys.stderr)
        return 2
    FORK.set_forkserver_preload(preload(root))
    started = time.perf_counter()
    verdicts = examine(root, chosen, options.jobs, options.limit)
    if not options.sample:  # a sample is a check, which leaves the tree alone
        write_lock(root, mutations, verdicts)
    count = Counter(verdict.outcome for verdict in verdicts)
    print(
        f"{len(mutations)} mutations, {len(verdicts)} examined in {time.perf_counter() - started:.0f} s: "
        f"{count['red']} red, {count['GREEN']} survived, {count['error']} unusable"
    )
    return 0 if count["red"] == len(verdicts) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an interrupt: clear up first
    sys.exit(main())
