"""What is counted, in the text that Prometheus reads."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)

OUTCOMES = ("answered", "again", "reset", "resumed", "late", "busy", "lost", "failed", "refused")


@dataclass
class Histogram:
    """How many values lay below each bound."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float, times: int = 1) -> None:
        """One more value, or several like it."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def lines(self, name: str, label: str = "") -> list[str]:
        """As text: cumulative counts, the sum, the number."""
        said, below = [], 0
        for bound, count in zip((*(f"{bound:g}" for bound in self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            said.append(f'{name}_bucket{{{label}{"," if label else ""}le="{bound}"}} {below}')
        braces = f"{{{label}}}" if label else ""
        return [*said, f"{name}_sum{braces} {self.total:.9g}", f"{name}_count{braces} {below}"]


class Metrics:
    """All that a server counts. `gauges` are asked for when the text is."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.closed: Counter[int] = Counter()
        self.queued = Histogram(SECONDS)
        self.answered = Histogram(SECONDS)
        self.busy = {lane: Histogram(SECONDS) for lane in ("slow", "quick")}
        self.batches = {lane: Histogram(SIZES) for lane in ("slow", "quick")}
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def text(self) -> str:
        """Prometheus' text, version 0.0.4."""
        lines: list[str] = []
        for name, (what, value) in self.gauges.items():
            lines += [*_head(f"kedge_serve_{name}", what, "gauge"), f"kedge_serve_{name} {value():.9g}"]
        lines += _head("kedge_serve_requests_total", "Requests by what became of them.", "counter")
        lines += [f'kedge_serve_requests_total{{outcome="{name}"}} {self.requests[name]}' for name in OUTCOMES]
        lines += _head("kedge_serve_closed_total", "Connections that the server has closed, by code.", "counter")
        lines += [f'kedge_serve_closed_total{{code="{code}"}} {n}' for code, n in sorted(self.closed.items())]
        for name, what, one in (
            ("queue_seconds", "From the arrival of a request until work on it began.", self.queued),
            ("request_seconds", "From the arrival of a request until its answer was ready.", self.answered),
        ):
            lines += [*_head(f"kedge_serve_{name}", what, "histogram"), *one.lines(f"kedge_serve_{name}")]
        for name, what, several in (
            ("work_seconds", "Time of the agent for one batch.", self.busy),
            ("batch_size", "Requests done together.", self.batches),
        ):
            lines += _head(f"kedge_serve_{name}", what, "histogram")
            for lane, one in several.items():
                lines += one.lines(f"kedge_serve_{name}", f'lane="{lane}"')
        return "\n".join(lines) + "\n"


def _head(name: str, what: str, kind: str) -> list[str]:
    return [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]
