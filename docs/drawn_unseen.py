"""Draws what agents come to in mazes that they have never seen, from `benchmarks/results/planners/unseen-*.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drawn import DOCS, NOTHING, stored_results, table, write, write_origin
from sphinx.application import Sphinx

STORED = DOCS.parent / "benchmarks" / "results" / "planners"
ARMS = {
    "astar": "A\\* and P-D (knows the map)",
    "ditree": "DiTree",
    "rrt": "a plain tree, uniform controls",
    "policy": "DiTree's policy without the tree",
    "regression": "... as regression: behaviour cloning",
    "navdp": "NavDP",
    "navdp-random": "... one way at random",
    "navdp-clear": "... walls by a gradient",
    "fv": "FV, blind to walls",
    "fv-clear": "... walls by a gradient",
    "fv-filtered": "... walls by a gradient, the plan that crosses fewest",
}


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw(stored: Path = STORED) -> None:
    """The table, what the critic knows, and where both come from."""
    found = stored_results(stored, "unseen-*.json")
    write_origin("unseen_origin", "bench-unseen", found)
    rows = [_row(title, found[f"unseen-{arm}"]) for arm, title in ARMS.items() if f"unseen-{arm}" in found]
    head = ["", "solved, %", "untouched, %", "score", "edges tried a search", "s an episode", "s of training"]
    write("unseen", table(head, rows) if rows else NOTHING)
    write("unseen_critic", _critic(found.get("unseen-critic")))


def _row(title: str, found: Mapping[str, Any]) -> list[str]:
    outcome, training = found["outcome"], found["training"]
    edges = f"{outcome['expansions']['mean']:.0f}" if "expansions" in outcome else ""
    trained = "" if training is None else f"{training['cpu']:.0f}"
    shares = [_mean(outcome[name], 100) for name in ("success", "clean")]
    return [title, *shares, _mean(outcome["score"]), edges, f"{found['times']['cpu_an_episode']:.2f}", trained]


def _critic(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return NOTHING
    auc, hit, chosen = (found["outcome"][name] for name in ("auc", "hit", "hit_chosen"))
    return (
        f"In the same 50 mazes NavDP's critic puts a way that keeps clear above one that hits a wall in "
        f"{_mean(auc, 100)} % of the pairs, among sixteen ways from places where D4RL's controller came by. Of these "
        f"ways {_mean(hit, 100)} % hit a wall, of those that it chose {_mean(chosen, 100)} %.\n"
    )


def _mean(row: Mapping[str, Any], times: float = 1.0) -> str:
    return f"{times * row['mean']:.0f} [{times * row['low']:.0f}, {times * row['high']:.0f}]"
