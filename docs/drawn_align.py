"""Draws what the page of alignment shows, from `benchmarks/results/align`: a file for each job of `make bench-align`.

A Sphinx extension, as `drawn` is. What is missing is said where it would stand; a build without any result succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from drawn import COLOURS, DOCS, MARKERS, NOTHING, Page, figure_of, plain, stored_results, table, write, write_origin
from matplotlib.figure import Figure
from sphinx.application import Sphinx

from kedge.run.statistics import Interval, interval, paired

STORED = DOCS.parent / "benchmarks" / "results" / "align"
METHODS = {
    "vmpo": "VMPO, leave-one-out",
    "vmpo-group": "VMPO, mean of the group",
    "vmpo-log-z": "VMPO, learned log Z",
    "vmpo-pair": "VMPO, pairs",
    "vmpo-flow": "VMPO, a flow, step by step",
    "vmpo-to-go": "VMPO, a flow, to the end",
    "vmpo-plugged": "VMPO, rewards of estimates",
    "vmpo-replayed": "VMPO, each batch four times",
    "dpok": "policy gradient, divergence as a penalty",
    "loop": "policy gradient, leave-one-out",
    "ddpo": "policy gradient, scaled (DDPO)",
    "awm": "matching (AWM)",
    "fpo": "matching, clipped ratios (FPO)",
    "sdpo": "pairs, step by step (SDPO)",
    "b2": "policy gradient of branches (B2-DiffuRL)",
    "setpo": "policy gradient, with a set's variety (SetPO)",
    "dpp": "policy gradient, with a set's volume (DPP-GRPO)",
}
REWARDS = {
    "speed": "sooner at the goal",
    "zone": "out of a box",
    "clear": "a black box: clear of walls",
    "calm": "a black box: slower than a limit",
}
WAYS = {"vmpo": "VMPO", "ddpo": "DDPO", "awm": "AWM"}
TUNED = {"dppo": "DPPO", "fpo": "FPO", "dsrl": "DSRL"}
COSTS = {"zone": "zone", "clear": "near", "calm": "fast"}
"""What of a reward can be seen in what was done."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw(stored: Path = STORED) -> None:
    """All of it."""
    results = stored_results(stored)
    write_origin("align_origin", "bench-align", results)
    draw_frontier(results)
    draw_planners(results)
    draw_throughput(results)
    draw_finetuned(results)


# Where everything is known


def draw_frontier(results: Mapping[str, Mapping[str, Any]]) -> None:
    """The tables and the figures."""
    found = {name: results[f"frontier-{name}"] for name in METHODS if f"frontier-{name}" in results}
    chain = {name: results[f"chain-{name}"] for name in METHODS if f"chain-{name}" in results}
    left = [title for name, title in METHODS.items() if name not in found]
    missing = f"\nMissing: {'; '.join(left)}.\n" if left else ""
    write("align_frontier", _nats(found, "modes") + missing if found else NOTHING)
    write("align_frontier_one", _nats(found, "one") + missing if found else NOTHING)
    write("align_frontier_chain", _nats(chain, "chain", ".2g") if chain else NOTHING)
    p = np.linspace(0.5, 0.999, 200)
    _frontier(found, "modes", p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p)), p)
    tilts = sorted((row["least"], row["reward"]) for result in chain.values() for row in _of(result, "chain"))
    _frontier(chain, "chain", *np.array(tilts or [(0.0, 0.0)]).T)


def _frontier(found: Mapping[str, Mapping[str, Any]], scene: str, nats: np.ndarray, reward: np.ndarray) -> None:
    """Reward against divergence, and the least divergence that it is to be had for."""
    name = "align_frontier_figure" if scene == "modes" else f"align_frontier_{scene}_figure"
    if not found:
        write(name, NOTHING)
        return

    def paint(figure: Figure, page: Page) -> None:
        axis = figure.subplots()
        axis.plot(nats, reward, color=page.ink, linewidth=1, linestyle=":", label="what is possible")
        for method, result in found.items():
            rows, (turn, place) = _of(result, scene), divmod(list(METHODS).index(method), len(COLOURS))
            style = {"color": COLOURS[place], "marker": MARKERS[place], "markersize": 4}
            axis.plot(
                [row["from_before"] for row in rows], [row["reward"] for row in rows], linestyle="none",
                label=METHODS[method], fillstyle=("full", "none", "left")[turn], **style,
            )  # fmt: skip
        if max(row["from_before"] for result in found.values() for row in _of(result, scene)) > 5:
            axis.set_xscale("symlog", linthresh=0.1)
        axis.set_xlabel("nats from where it began")
        axis.set_ylabel("mean reward", color=page.ink)
        plain(axis, page, grid="both")
        figure.legend(loc="outside right center", frameon=False, fontsize=8, labelcolor=page.ink)

    alt = "Mean reward against divergence from where each method began; the dotted line is the best possible."
    figure_of(name, (9.0, 4.2), paint, alt)


def _of(result: Mapping[str, Any], scene: str) -> list[Mapping[str, Any]]:
    """The rows of one scene."""
    return [row for row in result["rows"] if row["scene"] == scene]


def _nats(found: Mapping[str, Mapping[str, Any]], scene: str, form: str = ".3f") -> str:
    """How near each method comes to the tilt of each temperature; those without one, how far they go for what."""
    rows = {name: _of(result, scene) for name, result in found.items() if _of(result, scene)}
    betas = sorted({row["beta"] for each in rows.values() for row in each if "beta" in row}, reverse=True)
    head = ["method", *(f"nats from the tilt, beta {beta:g}" for beta in betas)]
    shown = {"ess": "effective share there", "spread": "variance of log w there"}
    shown |= {"reward": "reward there, or at the end", "from_before": "nats from where it began"}
    shown |= {"least": "least nats for that reward"}
    known = {what: title for what, title in shown.items() if any(what in row for each in rows.values() for row in each)}
    cells = []
    for name, each in rows.items():
        tilts = [_spread([row["from_tilt"] for row in each if row.get("beta") == beta], form) for beta in betas]
        last = [_spread([row[what] for row in _last(each) if what in row], _form(what, form)) for what in known]
        cells.append([METHODS[name], *tilts, *last])
    seeds = len({row["seed"] for each in rows.values() for row in each})
    return table([*head, *known.values()], cells) + f"\nMeans and ranges of {seeds} seeds.\n"


def _form(what: str, form: str) -> str:
    """What may be a millionth is told by its first digits; all else to a thousandth."""
    return form if what == "spread" else ".3f"


def _last(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the least temperature, or of the end."""
    if "beta" in rows[0]:
        return [row for row in rows if row["beta"] == min(other["beta"] for other in rows)]
    return [row for row in rows if row["step"] == max(other["step"] for other in rows)]


def _spread(values: Sequence[float], form: str = ".3f") -> str:
    return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})" if values else ""


# Planners


def draw_planners(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Before and after, over the training seeds and the starts that both share."""
    rows = []
    for reward, title in REWARDS.items():
        for method, way in WAYS.items():
            found = [r for name, r in results.items() if name.startswith(f"{reward}-{method}-")]
            if found:
                rows.append([title, way, str(len(found)), *_planners(reward, found)])
    if not rows:
        write("align_planners", NOTHING)
        return
    head = ["reward", "method", "seeds", "reward of a plan", "cost of what was done", "score", "distance of plans"]
    write("align_planners", table([*head, "seconds"], rows))


def draw_throughput(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Rates, and their ratio over the rounds."""
    found = results.get("throughput")
    if found is None:
        write("align_throughput", NOTHING)
        return
    rows = [
        [
            str(row["batch"]), f"{row['kedge_per_second']:.1f}", f"{row['loop_per_second']:.1f}",
            f"{row['ratio']:.2f} ({min(row['ratios']):.2f} to {max(row['ratios']):.2f})",
        ]
        for row in found["rows"]
    ]  # fmt: skip
    write("align_throughput", table(["batch", "kedge", "plain loop", "ratio, median and range"], rows))


def _planners(reward: str, found: Sequence[Mapping[str, Any]]) -> list[str]:
    def change(of: Any, form: str, times: float = 1.0) -> str:
        before, after = ([times * np.array(of(r[when])) for r in found] for when in ("before", "after"))
        gain = paired(after, before, same_starts=True)
        one, two = (np.mean([values.mean() for values in side]) for side in (before, after))
        return f"{one:{form}} → {two:{form}} [{gain.difference.low:+{form}}, {gain.difference.high:+{form}}]"

    cost = COSTS.get(reward)
    return [
        change(lambda side: side["plans"]["reward"], ".3f"),
        change(lambda side: side["costs"][cost], ".1f", 100) + " %" if cost else "",
        change(lambda side: side["outcome"]["latched"], ".1f"),
        change(lambda side: side["plans"]["diversity"], ".2f"),
        f"{np.mean([r['seconds']['cpu'] for r in found]):.0f}",
    ]


# Policies


def draw_finetuned(results: Mapping[str, Mapping[str, Any]]) -> None:
    """What became of the same clones, at equal steps of the environment."""
    found = {
        arm: runs
        for arm in TUNED
        if (runs := [r for name, r in results.items() if name.startswith(f"finetune-{arm}-")])
    }
    if not found:
        for piece in ("align_finetuned", "align_finetuned_figure"):
            write(piece, NOTHING)
        return
    rows, looks = [], len(next(iter(found.values()))[0]["points"])
    for arm, runs in found.items():
        shown = [_solved(runs, place) for place in (0, looks // 4, looks // 2, looks - 1)]
        first, last = (_episodes(runs, place) for place in (0, looks - 1))
        gain = paired(last, first, same_starts=True).difference
        cpu = np.mean([run["points"][-1]["cpu"] for run in runs])
        cells = [f"{100 * value.mean:.0f} % [{100 * value.low:.0f}, {100 * value.high:.0f}]" for value in shown]
        change = f"{100 * gain.mean:+.0f} [{100 * gain.low:+.0f}, {100 * gain.high:+.0f}]"
        rows.append([TUNED[arm], str(len(runs)), *cells, change, f"{cpu:.0f}"])
    steps = [next(iter(found.values()))[0]["points"][place]["env_steps"] for place in (looks // 4, looks // 2, -1)]
    head = ["method", "seeds", "before", *(f"{step / 1e6:.2f} M steps" for step in steps), "change", "seconds"]
    write("align_finetuned", table(head, rows))

    def paint(figure: Figure, page: Page) -> None:
        axis = figure.subplots()
        for place, (arm, runs) in enumerate(found.items()):
            steps = np.mean([[point["env_steps"] for point in run["points"]] for run in runs], 0) / 1e6
            shown = [_solved(runs, look) for look in range(len(steps))]
            colour = COLOURS[place]
            style = {"color": colour, "marker": MARKERS[place], "markersize": 4, "label": TUNED[arm]}
            axis.plot(steps, [100 * value.mean for value in shown], **style)
            low, high = ([100 * getattr(value, edge) for value in shown] for edge in ("low", "high"))
            axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_xlabel("million steps of the environment")
        axis.set_ylabel("episodes solved, %", color=page.ink)
        axis.set_ylim(0, 102)
        plain(axis, page, grid="both")
        axis.legend(loc="lower right", frameon=False, fontsize=8, labelcolor=page.ink)

    figure_of(
        "align_finetuned_figure", (7.2, 3.6), paint,
        "Episodes solved against steps of the environment, for each method, with 95 % intervals over seeds and starts.",
    )  # fmt: skip


def _episodes(runs: Sequence[Mapping[str, Any]], place: int) -> list[np.ndarray]:
    """Solved or not, seed by seed."""
    return [(np.array(run["points"][place]["solved_at"]) >= 0).astype(float) for run in runs]


def _solved(runs: Sequence[Mapping[str, Any]], place: int) -> Interval:
    return interval(_episodes(runs, place), same_starts=True)
