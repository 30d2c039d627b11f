"""A pytest plugin that holds the suite to its word: what it may take, and what it may leave out.

Three rules. A test of a system costs at most a few seconds. The run as a whole ends within its budget. A test is
skipped, or expected to fail, only for a reason that the list of allowed reasons names together with its why.

What a test costs are the seconds of a processor that it and the processes it waits for have used: a neighbour that
holds the core for a while makes no test dearer. One that sleeps costs nothing so, and has a limit by the clock.

The first and the last turn the test itself red, where it ran, so they hold under xdist as they do without.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest


def allowed_reasons(path: Path) -> dict[str, str]:
    """Reads `reason :: why` line by line; empty lines and `#` comments do not count."""
    reasons = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        reason, separator, why = (part.strip() for part in line.partition("::"))
        if not (reason and separator and why):
            raise pytest.UsageError(f"{path.name}, line {number}: expected 'reason :: why', got {line!r}")
        reasons[reason] = why
    return reasons


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Why a test was skipped or expected to fail; None where it was neither."""
    expected_failure = getattr(report, "wasxfail", None)
    if expected_failure is not None:
        return expected_failure.removeprefix("reason: ").strip()
    if not report.skipped:
        return None
    longrepr = report.longrepr
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ").strip()


@dataclass(frozen=True)
class Moment:
    """Seconds that this process and the children it has waited for have used, and seconds by the clock."""

    used: float
    clock: float

    @classmethod
    def now(cls) -> Moment:
        """This moment."""
        return cls(sum(os.times()[:4]), time.perf_counter())


@dataclass(eq=False)
class Budget:
    """The plugin. `total` and `system` are seconds; `systems` is the folder, from the root, that `system` is about.

    By the clock a test of a system has `patience` times what it may use of a processor. Beside another worker it has
    `crowd` times as much of both: two threads of one core share it, so that each second of a thread does less.
    """

    reasons: dict[str, str]
    total: float = 900.0
    system: float = 4.0
    patience: float = 5.0
    crowd: float = 1.5
    systems: str = "tests/systems"
    started: float = field(default_factory=time.perf_counter)
    began: dict[str, Moment] = field(default_factory=dict)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Notes when a test begins, its fixtures included."""
        self.began[item.nodeid] = Moment.now()
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turns a report red that is over its time, or that left something out for a reason of its own."""
        report = yield
        self._refuse_unlisted(report)
        self._refuse_slow(item, report)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """The same for a module that leaves itself out while it is imported."""
        report = yield
        self._refuse_unlisted(report)
        return report

    def _refuse_unlisted(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = reason_of(report)
        if reason is None or reason in self.reasons:
            return
        report.outcome = "failed"
        report.longrepr = f"left out for a reason that tests/skips.txt does not list: {reason or '(none given)'}"
        vars(report).pop("wasxfail", None)

    def _refuse_slow(self, item: pytest.Item, report: pytest.TestReport) -> None:
        if not item.nodeid.startswith(self.systems + "/") or item.get_closest_marker("slow"):
            return
        began, now = self.began[item.nodeid], Moment.now()
        used, clock = now.used - began.used, now.clock - began.clock
        limit = self.system * (self.crowd if hasattr(item.config, "workerinput") else 1.0)
        if report.passed and (used > limit or clock > self.patience * limit):
            self.began[item.nodeid] = now  # said once, not again at the test's end
            report.outcome = "failed"
            report.longrepr = (
                f"cost {used:.1f} s of a processor, {clock:.1f} s by the clock, with its fixtures; "
                f"a test of a system has {limit:g} and {self.patience * limit:g} s"
            )

    def _overrun(self, config: pytest.Config) -> str | None:
        elapsed = time.perf_counter() - self.started
        if hasattr(config, "workerinput") or elapsed <= self.total:
            return None
        return f"the run took {elapsed:.1f} s; its budget is {self.total:g} s"

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fails a run that went over its time."""
        if session.exitstatus == pytest.ExitCode.OK and self._overrun(session.config):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """Says what was left out and why that is allowed, and whether the run went over its time."""
        left_out = [*terminalreporter.stats.get("skipped", []), *terminalreporter.stats.get("xfailed", [])]
        reasons = [reason for reason in map(reason_of, left_out) if reason is not None]
        if reasons:
            terminalreporter.section("left out")
        for reason in sorted(set(reasons)):
            terminalreporter.write_line(f"{reasons.count(reason)} x {reason}: {self.reasons.get(reason, 'not listed')}")
        overrun = self._overrun(config)
        if overrun:
            terminalreporter.section("over budget", red=True)
            terminalreporter.write_line(overrun, red=True)
