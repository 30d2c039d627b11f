"""Draws what the page of FV shows, from `benchmarks/results/fv`: a file for each job of `make bench-fv` that is done.

A Sphinx extension, as `drawn` is. What is missing is said where it would stand; a build without any result succeeds.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from drawn import COLOURS, DOCS, MARKERS, NOTHING, Page, figure_of, plain, table, write
from drawn_exact import draw_exact
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from sphinx.application import Sphinx

from kedge.run.statistics import Interval, Paired, holm, interval, paired, steps_to_level

ROOT = DOCS.parent
STORED = ROOT / "benchmarks" / "results" / "fv"
PUBLISHED = ROOT / "src" / "kedge" / "run" / "report" / "published.json"
MAZES = ("large", "medium", "umaze")
MAIN = ("vp", "vp-2m", "uniform", "min-snr", "head", "polynomial")
"""The arms that figures show, in the order of the colours."""
REFERENCE = "uniform"
SCALES = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Noise scales that the table of held-out errors names; the figure has the second, the fourth and the fifth."""

NAMES = {
    "vp": "VP + eps, DDIM, even times",
    "vp-2m": "VP + eps, 2M, EDM's grid",
    "vp-ddim-edm-grid": "VP + eps, DDIM, EDM's grid",
    "vp-2m-own-grid": "VP + eps, 2M, even times",
    "vp-20": "VP + eps, DDIM, even times, 20 evaluations",
    "uniform": "trig + uniform (= EDM)",
    "uniform-20": "trig + uniform, 20 evaluations",
    "uniform-ddim": "trig + uniform, DDIM",
    "min-snr": "+ min-SNR",
    "head": "+ learned head",
    "polynomial": "+ polynomial (gamma, statistics)",
    "polynomial-gamma-coefficients": "+ polynomial (gamma, coefficients)",
    "polynomial-log-statistics": "+ polynomial (log, statistics)",
    "polynomial-log-coefficients": "+ polynomial (log, coefficients)",
    "degree-3": "degree 3",
    "degree-5": "degree 5",
    "degree-7": "degree 7",
    "dit": "DiT1D, polynomial",
    "dit-uniform": "DiT1D, uniform",
    "conv": "ConvNet, polynomial",
    "few-uniform": "U-Net, batch 8, uniform",
    "few-head": "U-Net, batch 8, learned head",
    "few-polynomial": "U-Net, batch 8, polynomial",
}
SHARED = ("vp-2m", "vp-ddim-edm-grid", "vp-2m-own-grid", "uniform-ddim")
"""Walks that share their training with another one."""
CONTRASTS = (
    ("weighting", "min-snr", "uniform"),
    ("weighting", "head", "uniform"),
    ("weighting", "polynomial", "uniform"),
    ("weighting", "polynomial", "head"),
    ("its regression", "polynomial-log-statistics", "polynomial"),
    ("its smoothing", "polynomial-gamma-coefficients", "polynomial"),
    ("both, as in the paper", "polynomial-log-coefficients", "polynomial"),
    ("path, with its levels, its output and its loss", "uniform", "vp-2m"),
    ("solver, on trig", "uniform", "uniform-ddim"),
    ("solver, on VP", "vp-2m", "vp-ddim-edm-grid"),
    ("grid, on VP", "vp-ddim-edm-grid", "vp"),
)
"""What one choice adds: what it is, the walk that has it, the one that has not."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw(stored: Path = STORED, scale: str = "FULL") -> None:
    """All of it."""
    found = Found.of(stored, scale)
    draw_state(found)
    draw_headline(found)
    draw_ablation(found)
    draw_contrasts(found)
    draw_curves(found)
    draw_held_out(found)
    draw_landscape(found)
    draw_evaluations(found)
    draw_degrees(found)
    draw_nets(found)
    draw_few(found)
    draw_exact(found.results)
    draw_rates(found)
    draw_veteran(found)
    draw_gpu(found)


# What was found


@dataclass(frozen=True)
class Found:
    """The jobs as the code has them now, and the results that lie there."""

    jobs: Sequence[Any]
    results: Mapping[str, dict[str, Any]]
    odd: Mapping[str, list[str]]

    @classmethod
    def of(cls, stored: Path, scale: str) -> Found:
        """Reads what there is; a file that cannot be read counts as none."""
        if (folder := str(ROOT / "benchmarks")) not in sys.path:
            sys.path.append(folder)
        planning: Any = importlib.import_module("measure.planning")
        jobs: Any = importlib.import_module("measure.jobs")
        store = jobs.Store(stored, stored)
        all_jobs = planning.jobs(getattr(planning, scale))
        results = {job.name: found for job in all_jobs if (found := store.read(job.name)) is not None}
        odd = {job.name: words for job in all_jobs if (words := store.odd(job))}
        return cls(all_jobs, results, odd)

    def curves(self, family: str) -> dict[str, Curve]:
        """The walks of a family's arms, by their names. What was measured with other settings stands with no arm."""
        made: dict[str, Curve] = {}
        for job in self.jobs:
            if job.name.startswith(f"{family}-") and job.settings["kind"] == "curve":
                result = None if job.name in self.odd else self.results.get(job.name)
                for walk in [*job.settings["walks"], *job.settings["at_last"]]:
                    curve = made.setdefault(walk, Curve(walk, {}, []))
                    if result is None:
                        curve.missing.append(job.settings["seed"])
                    elif all(walk in point["walks"] for point in result["checkpoints"][-1:]):
                        curve.seeds[job.settings["seed"]] = result
        return made


@dataclass(frozen=True)
class Curve:
    """One walk of one arm, seed by seed."""

    name: str
    seeds: dict[int, dict[str, Any]]
    missing: list[int]

    @property
    def title(self) -> str:
        """What a table calls it."""
        return NAMES.get(self.name, self.name)

    def points(self, seed: int) -> list[dict[str, Any]]:
        """The checkpoints that were looked at with this walk."""
        return [point for point in self.seeds[seed]["checkpoints"] if self.name in point["walks"]]

    def last(self, seed: int) -> dict[str, Any]:
        """The last evaluation."""
        return self.points(seed)[-1]["walks"][self.name]

    def level(self) -> Interval:
        """The final score, over seeds and then their episodes."""
        return interval([np.array(self.last(seed)["latched"]) for seed in self.seeds], same_starts=True)

    def against(self, other: Curve) -> Paired | None:
        """The difference on the seeds and starts that both have."""
        both = sorted(set(self.seeds) & set(other.seeds))
        rows = [(np.array(self.last(seed)["latched"]), np.array(other.last(seed)["latched"])) for seed in both]
        rows = [(a, b) for a, b in rows if len(a) == len(b)]
        return paired([a for a, _ in rows], [b for _, b in rows], same_starts=True) if rows else None

    @cached_property
    def steps(self) -> list[int]:
        """Of the checkpoints."""
        return [point["step"] for point in self.points(next(iter(self.seeds)))] if self.seeds else []

    def scores(self) -> np.ndarray:
        """`[seeds, checkpoints]`, each over the starts that all checkpoints share."""
        least = min(len(p["walks"][self.name]["latched"]) for seed in self.seeds for p in self.points(seed))
        rows = [[np.mean(p["walks"][self.name]["latched"][:least]) for p in self.points(seed)] for seed in self.seeds]
        return np.array(rows)

    def shares(self, name: str) -> np.ndarray:
        """`[seeds, checkpoints]` of a figure of feasibility."""
        rows = [[p["walks"][self.name]["feasibility"].get(name) for p in self.points(seed)] for seed in self.seeds]
        return np.array(rows, dtype=float)

    def to_level(self) -> str:
        """Steps to 90 % of the final level: the mean over seeds, and their range."""
        found = []
        for row in self.scores():
            try:
                found.append(steps_to_level(self.steps, row))
            except ValueError:
                continue
        if len(self.steps) < 2 or not found:
            return ""
        return f"{np.mean(found):.0f} ({min(found):.0f} to {max(found):.0f})"

    def seconds(self) -> str:
        """Of training, on one core."""
        return f"{np.mean([self.points(seed)[-1]['cpu'] for seed in self.seeds]):.0f}"

    def held_out(self, log_sigma: float) -> np.ndarray:
        """`[seeds, checkpoints]`: the log of the held-out error at a noise scale, between the measured ones."""
        rows = []
        for seed in self.seeds:
            measured = [point["held_out"] for point in self.points(seed)]
            rows.append([np.interp(log_sigma, m["log_sigma"], m["log_loss"]) if m else np.nan for m in measured])
        return np.array(rows, dtype=float)


# Tables


def draw_state(found: Found) -> None:
    """Where it was measured, and what is missing."""
    results = found.results.values()
    commits = sorted({result["commit"][:12] + result["commit"][40:] for result in results})
    machines = sorted({f"{r['machine']['cpu']}, {r['machine']['cores']} cores" for r in results})
    versions = sorted({", ".join(f"{name} {v}" for name, v in result["versions"].items()) for result in results})
    rows = [
        ("results", f"{len(found.results)} of {len(found.jobs)}"),
        ("measured", " to ".join(sorted({min(r["when"] for r in results)[:10], max(r["when"] for r in results)[:10]})))
        if found.results
        else ("measured", "nothing yet"),
        ("commit", ", ".join(f"`{commit}`" for commit in commits)),
        ("processor", "; ".join(machines)),
        ("versions", "; ".join(versions)),
    ]
    write("fv_provenance", table(["", ""], rows))
    missing = [job.name for job in found.jobs if job.name not in found.results]
    text = "Every job has a result.\n" if not missing else f"Missing, {len(missing)} of {len(found.jobs)}:\n\n"
    by_family: dict[str, dict[str, list[str]]] = {}
    for name in missing:
        family, _, rest = name.partition("-")
        arm, _, seed = rest.rpartition("-") if rest[-1].isdigit() else (rest, "", "")
        by_family.setdefault(family, {}).setdefault(arm, []).append(seed)
    for family, arms in by_family.items():
        said = (f"{arm} (seeds {', '.join(seeds)})" if all(seeds) else arm for arm, seeds in arms.items())
        text += f"- {family}: {'; '.join(said)}\n"
    if found.odd:
        text += (
            "\nMeasured with settings that the code no longer has; learning curves among them are left out above:\n\n"
        )
        text += "".join(f"- {name}: {'; '.join(words)}\n" for name, words in found.odd.items())
    write("fv_missing", text)


def draw_headline(found: Found) -> None:
    """Scores, and how the plans met the world."""
    headline = {maze: _headline(found, maze) for maze in MAZES}
    if not any(headline.values()):
        for name in ("fv_scores", "fv_feasibility"):
            write(name, NOTHING)
        return
    rows = [["**FV**, latched", *(_score(headline[maze], "latched") for maze in MAZES)]]
    rows.append(["FV, raw", *(_score(headline[maze], "raw") for maze in MAZES)])
    rows.append(["FV, solved", *(_mean(headline[maze], lambda outcome: outcome["success"], ".1%") for maze in MAZES)])
    beside = {maze: found.results.get(f"headline-beside-{maze}", {}).get("rows", []) for maze in MAZES}
    labels = {row["key"]: row["label"] for of_maze in beside.values() for row in of_maze}
    for key, label in labels.items():
        cells = [next((row for row in beside[maze] if row["key"] == key), None) for maze in MAZES]
        rows.append([label, *(_interval_of(cell["latched"] if cell else None) for cell in cells)])
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    rows += [
        [f"{row['name']}, as published", *(str(row["scores"].get(maze, "")) for maze in MAZES)]
        for row in published["rows"]
    ]
    write("fv_scores", table(["", *MAZES], rows) + f"\n{published['source']}\n")
    write("fv_feasibility", _feasibility(headline, beside))


def _headline(found: Found, maze: str) -> list[dict[str, Any]]:
    """The outcome of each seed."""
    names = [job.name for job in found.jobs if job.name.startswith(f"headline-fv-{maze}-")]
    return [found.results[name]["outcome"] for name in names if name in found.results]


def _score(outcomes: Sequence[Mapping[str, Any]], which: str) -> str:
    """With an interval over seeds, then episodes."""
    rows = [np.array(outcome[which]) for outcome in outcomes if outcome[which] is not None]
    return f"{interval(rows, same_starts=True)} ({len(rows)} seed{'s' * (len(rows) > 1)})" if rows else "missing"


def _mean(outcomes: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], Any], form: str) -> str:
    values = [value for outcome in outcomes if (value := of(outcome)) is not None]
    return format(float(np.mean(values)), form) if values else "missing"


def _interval_of(found: Mapping[str, Any] | None) -> str:
    return "{mean:.1f} [{low:.1f}, {high:.1f}]".format(**found) if found else "missing"


MEASURES = (
    ("executed prefixes that cross a wall", "executed_prefixes_crossing", ".1%"),
    ("followed parts that cross a wall", "followed_parts_crossing", ".1%"),
    ("whole plans that cross a wall", "whole_plans_crossing", ".1%"),
    ("plans with a step beyond physics", "plans_over_reach", ".1%"),
    ("largest step, m", "largest_step", ".2f"),
    ("start off by, m", "start_gap_mean", ".1e"),
    ("tracking error, m", "tracking_mean", ".2f"),
    ("off the path, m", "off_path_mean", ".3f"),
)


def _feasibility(headline: Mapping[str, list[dict[str, Any]]], beside: Mapping[str, Any]) -> str:
    """FV and the rows beside it that plan."""
    rows = []
    for maze in MAZES:
        planned = [("FV", headline[maze])] + [
            (row["label"], [row["outcome"]]) for row in beside[maze] if "outcome" in row
        ]
        for label, outcomes in planned:
            if outcomes and outcomes[0]["feasibility"].get("plans"):
                cells = [
                    _mean(outcomes, lambda o, key=key: o["feasibility"].get(key), form) for _, key, form in MEASURES
                ]
                rows.append([maze, label, *cells])
    return table(["maze", "", *(name for name, _, _ in MEASURES)], rows)


HEAD = (
    "", "score", "against trig + uniform", "p", "Holm", "steps to 90 %", "prefixes crossing", "plans crossing",
    "seconds", "seeds",
)  # fmt: skip


def draw_ablation(found: Found) -> None:
    """Each arm at its end, and what it has over the reference."""
    curves = found.curves("ablation")
    text = _compared(curves, [name for name in curves if name not in SHARED[1:]], REFERENCE)
    write("fv_ablation", text if text == NOTHING else f"{text}\n{_critics(curves)}\n")


def _critics(curves: Mapping[str, Curve]) -> str:
    """Whether arms of a training seed had the same critic throughout: what its weights were is in the results."""
    seen: dict[tuple[int, int], set[str]] = {}
    for curve in curves.values():
        for seed in curve.seeds:
            for point in curve.points(seed):
                seen.setdefault((seed, point["step"]), set()).add(point["critic"])
    apart = sorted({seed for (seed, _), digests in seen.items() if len(digests) > 1})
    if apart:
        return f"**The critics of the arms were not the same with seeds {', '.join(map(str, apart))}.**"
    return "At every checkpoint the critics of all arms of a training seed were the same, bit for bit."


def _compared(curves: Mapping[str, Curve], names: Sequence[str], reference: str) -> str:
    """A row an arm; differences are paired, and p-values corrected over the rows."""
    if not any(curves[name].seeds for name in names):
        return NOTHING
    base = curves.get(reference)
    effects = {n: curves[n].against(base) for n in names if base is not None and n != reference and curves[n].seeds}
    known = {name: effect for name, effect in effects.items() if effect is not None}
    corrected = dict(zip(known, holm([effect.p for effect in known.values()]), strict=True))
    rows = []
    for name in names:
        curve = curves[name]
        if not curve.seeds:
            rows.append([curve.title, "missing", *[""] * (len(HEAD) - 3), "0"])
            continue
        effect = known.get(name)
        words = ["", "", ""] if effect is None else [_effect(effect), f"{effect.p:.3g}", f"{corrected[name]:.3g}"]
        crossing = [
            f"{curve.shares(key)[:, -1].mean():.1%}" for key in ("executed_prefixes_crossing", "whole_plans_crossing")
        ]
        seeds = f"{len(curve.seeds)}{f' of {len(curve.seeds) + len(curve.missing)}' if curve.missing else ''}"
        rows.append([curve.title, curve.level(), *words, curve.to_level(), *crossing, curve.seconds(), seeds])
    return table(HEAD, rows)


def _effect(found: Paired) -> str:
    d = found.difference
    return f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]{', indicative' if found.indicative else ''}"


def _student(found: Paired) -> str:
    """Where the difference lies if it is normal over training seeds."""
    return "" if found.t is None else f"[{found.t[0]:+.1f}, {found.t[1]:+.1f}]"


def draw_contrasts(found: Found) -> None:
    """What each choice contributes, everything else being equal."""
    curves = found.curves("ablation")
    effects = [
        (what, a, b, effect)
        for what, a, b in CONTRASTS
        if a in curves and b in curves and (effect := curves[a].against(curves[b])) is not None
    ]
    corrected = holm([effect.p for *_, effect in effects]) if effects else []
    rows = [
        [
            what,
            NAMES[a],
            NAMES[b],
            _effect(effect),
            _student(effect),
            f"{effect.p:.3g}",
            f"{p:.3g}",
            len(effect.by_seed),
        ]
        for (what, a, b, effect), p in zip(effects, corrected, strict=True)
    ]
    head = ["what", "with", "against", "difference", "Student's t", "p", "Holm", "seeds"]
    write("fv_contrasts", table(head, rows) if rows else NOTHING)


def draw_evaluations(found: Found) -> None:
    """Five network evaluations, and twenty."""
    ablation = found.curves("ablation")
    curves = {name: ablation[name] for name in ("vp", "uniform")} | found.curves("evaluations")
    text = _compared(curves, ["vp", "vp-20", "uniform-20"], REFERENCE)
    write("fv_evaluations", text)


def draw_degrees(found: Found) -> None:
    """The degree of the polynomial."""
    curves = found.curves("degree")
    text = _compared(curves, list(curves), "degree-5")
    write("fv_degrees", text.replace("against trig + uniform", "against degree 5"))


def draw_nets(found: Found) -> None:
    """Networks, at equal steps and with their seconds."""
    curves = {"polynomial": found.curves("ablation")["polynomial"], **found.curves("nets")}
    some = set(curves["dit"].seeds) | set(curves["conv"].seeds)
    unet = curves["polynomial"]
    curves["polynomial"] = Curve("polynomial", {s: r for s, r in unet.seeds.items() if s in some}, [])
    text = _compared(curves, list(curves), "polynomial").replace("against trig + uniform", "against the U-Net")
    sizes = {
        NAMES[name]: next(iter(curve.seeds.values()))["parameters"]["planner"]
        for name, curve in curves.items()
        if curve.seeds
    }
    write("fv_nets", text.replace(NAMES["polynomial"], "U-Net, polynomial"))
    said = "; ".join(f"{name.partition(',')[0]} {size / 1e6:.2f}M" for name, size in sizes.items()).replace(
        NAMES["polynomial"].partition(",")[0], "U-Net"
    )
    write("fv_nets_sizes", f"Parameters: {said}.\n" if sizes else "")
    lines = {name: curve for name, curve in curves.items() if curve.seeds}

    def paint(figure: Figure, page: Page) -> None:
        for axis, cpu in zip(figure.subplots(1, 2, sharey=True), (False, True), strict=True):
            for (name, curve), colour, marker in zip(lines.items(), COLOURS, MARKERS, strict=False):
                seconds = np.mean([[p["cpu"] for p in curve.points(seed)] for seed in curve.seeds], 0)
                x = seconds if cpu else curve.steps
                label = "U-Net" if name == "polynomial" else curve.title.partition(",")[0]
                banded(axis, x, curve.scores(), colour, marker, label)
            axis.set_xlabel("seconds of training, one core" if cpu else "training steps")
            plain(axis, page, grid="both")
        figure.axes[0].set_ylabel("score", color=page.ink)
        legend(figure, page, figure.axes)

    _figure("fv_nets_figure", lines, paint, (8.4, 3.5), "Scores of three networks against steps and against seconds.")


def draw_few(found: Found) -> None:
    """Where a weighting that learns must help, if anywhere."""
    curves = {**found.curves("few"), "dit": found.curves("nets")["dit"]}
    write("fv_few", _compared(curves, ["few-uniform", "few-head", "few-polynomial"], "few-uniform").replace(
        "against trig + uniform", "against uniform"))  # fmt: skip
    write("fv_few_dit", _compared(curves, ["dit-uniform", "dit"], "dit-uniform").replace(
        "against trig + uniform", "against uniform"))  # fmt: skip
    lines = {name: curve for name, curve in curves.items() if curve.seeds}

    def paint(figure: Figure, page: Page) -> None:
        groups = (("few-uniform", "few-head", "few-polynomial"), ("dit-uniform", "dit"))
        for axis, names in zip(figure.subplots(1, 2, sharey=True), groups, strict=True):
            for name in (name for name in names if name in lines):
                banded(axis, lines[name].steps, lines[name].scores(), *look(name), lines[name].title)
            axis.set_xlabel("training steps")
            plain(axis, page, grid="both")
        figure.axes[0].set_ylabel("score", color=page.ink)
        legend(figure, page, figure.axes)

    _figure("fv_few_figure", lines, paint, (8.4, 3.5), "Scores against steps, with batches of 8, and of transformers.")


def draw_rates(found: Found) -> None:
    """Plans a second, steps a second, latency."""
    plans, mazes, latency = (found.results.get(f"rates-{kind}") for kind in ("plans", "mazes", "latency"))
    rows = [
        [
            row["arm"], row["candidates"], f"{row['plans_per_second']:.0f}", f"{row['ratio_plans']:.1f}",
            f"{row['decisions_per_second']:.2f}", f"{row['ratio_decisions']:.1f}",
        ]
        for row in (plans or {"rows": []})["rows"]
    ]  # fmt: skip
    head = ["", "candidates", "plans a second", "times DV", "decisions a second", "times DV"]
    write("fv_plan_rates", table(head, rows) if rows else NOTHING)
    steps = mazes["steps_per_second"] if mazes else {}
    lines = [
        [f"{mazes['copies'] if mazes else ''} mazes, `{what}`", f"{steps[key]:,.0f} steps a second".replace(",", " ")]
        for what, key in (("kedge", "kedge"), ("gymnasium.vector.SyncVectorEnv", "gymnasium"))
        if key in steps
    ]
    lines += [["ratio, median of rounds that take turns", f"{mazes['ratio']:.1f}"]] if mazes else []
    if latency:
        milli = [f"{1000 * latency[key]:.1f}" for key in ("median", "p5", "p95")]
        words = f"{milli[0]} ms (5 to 95 %: {milli[1]} to {milli[2]})"
        lines.append([f"one plan for one environment, {latency['candidates']} candidates, eager", words])
    write("fv_other_rates", table(["", ""], lines) if lines else NOTHING)


def draw_veteran(found: Found) -> None:
    """Diffusion Veteran's score, and FV's on the same starts."""
    result = found.results.get("headline-dv-large-0")
    ours = _headline(found, "large")
    if result is None or not ours:
        write("fv_veteran", NOTHING)
        return
    theirs = np.array(result["outcome"]["latched"])
    count, steps = len(theirs), result["settings"]["fields"]["steps"]
    same = [np.array(outcome["latched"][:count]) for outcome in ours]
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))["rows"]
    row = next(row for row in published if row["name"] == "DV")
    cpu = f"{result['training']['cpu']:.0f} s"
    lines = [
        [f"FV, latched, the same {count} starts", f"{interval(same, same_starts=True)} ({len(same)} training seeds)"],
        [f"DV, short-run schedule of {steps} steps ({cpu}), replan 15", f"{interval([theirs])} (1 training seed)"],
        ["DV, as published, a million steps, its own data", str(row["scores"]["large"])],
    ]
    write("fv_veteran", table(["large", "score"], lines))


def draw_gpu(found: Found) -> None:
    """Score against steps and seconds, where a GPU was there."""
    rows = []
    for curve in found.curves("gpu").values():
        for seed in curve.seeds:
            for point in curve.points(seed):
                score = interval([np.array(point["walks"][curve.name]["latched"])])
                rows.append([curve.name.upper(), f"{point['step']:,}", f"{point['wall']:.0f}", str(score)])
    write("fv_gpu", table(["", "steps", "seconds", "score"], rows) if rows else NOTHING)


# Figures


def banded(axis: Axes, x: Any, rows: np.ndarray, colour: str, marker: str, label: str) -> None:
    """The mean over seeds, and their range."""
    axis.plot(x, rows.mean(0), color=colour, marker=marker, markersize=3.5, linewidth=1.4, label=label)
    if len(rows) > 1:
        axis.fill_between(x, rows.min(0), rows.max(0), color=colour, alpha=0.15, linewidth=0)


def look(name: str) -> tuple[str, str]:
    """The colour and the marker of an arm: the same in all figures, for the same weighting."""
    place = MAIN.index(name.removeprefix("few-").removeprefix("dit-")) if name != "dit" else MAIN.index("polynomial")
    return COLOURS[place], MARKERS[place]


def legend(figure: Figure, page: Page, axes: Sequence[Axes], columns: int = 3) -> None:
    """Which line is which, below the panels, where it covers nothing."""
    lines = {str(line.get_label()): line for axis in axes for line in axis.get_lines()}
    named = {label: line for label, line in lines.items() if not label.startswith("_")}
    figure.legend(
        list(named.values()), list(named), loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5,
        labelcolor=page.ink,
    )  # fmt: skip


def _figure(name: str, there: Any, paint: Callable[[Figure, Page], None], size: tuple[float, float], alt: str) -> None:
    """A figure, if there is anything to show."""
    if there:
        figure_of(name, size, paint, alt)
    else:
        write(name, NOTHING)


def draw_curves(found: Found) -> None:
    """Scores and crossings against steps."""
    lines = _main(found)

    def paint(figure: Figure, page: Page) -> None:
        left, right = figure.subplots(1, 2)
        for name, curve in lines.items():
            banded(left, curve.steps, curve.scores(), *look(name), curve.title)
            banded(right, curve.steps, 100 * curve.shares("executed_prefixes_crossing"), *look(name), curve.title)
        for axis in (left, right):
            axis.set_xlabel("training steps")
            plain(axis, page, grid="both")
        legend(figure, page, figure.axes)
        left.set_ylabel("score", color=page.ink)
        right.set_ylabel("executed prefixes that cross a wall, %", color=page.ink)
        right.set_ylim(bottom=0)

    _figure("fv_curves", lines, paint, (8.4, 4.0), "Two panels: scores rise and crossings fall with training.")


def draw_held_out(found: Found) -> None:
    """The error at a noise level against steps, and at the end relative to the reference."""
    lines = {name: curve for name, curve in _main(found).items() if name not in SHARED}

    def paint(figure: Figure, page: Page) -> None:
        for axis, scale in zip(figure.subplots(1, 3), (SCALES[1], SCALES[3], SCALES[4]), strict=True):
            for name, curve in lines.items():
                title = "VP + eps" if name == "vp" else curve.title
                banded(axis, curve.steps, np.exp(curve.held_out(math.log(scale))), *look(name), title)
            axis.set_yscale("log")
            for ticks in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                ticks(StrMethodFormatter("{x:g}"))
            axis.set_title(f"noise scale {scale:g}", color=page.ink, fontsize=10)
            axis.set_xlabel("training steps")
            plain(axis, page, grid="both")
            axis.tick_params(axis="y", which="minor", labelsize=7, colors=page.ink)
        figure.axes[0].set_ylabel("held-out error", color=page.ink)
        legend(figure, page, figure.axes)

    _figure("fv_held_out", lines, paint, (8.4, 3.5), "Three noise levels: held-out errors fall with training.")
    curves = found.curves("ablation")
    base = curves[REFERENCE]
    rows = []
    for name, curve in curves.items():
        both = sorted(set(curve.seeds) & set(base.seeds))
        if not both or name == REFERENCE or name in SHARED:
            continue
        own, other = (Curve(c.name, {seed: c.seeds[seed] for seed in both}, []) for c in (curve, base))
        cells = []
        for scale in SCALES:
            apart = own.held_out(math.log(scale))[:, -1] - other.held_out(math.log(scale))[:, -1]
            cells.append(f"{100 * (math.exp(apart.mean()) - 1):+.1f} %")
        rows.append(["VP + eps" if name == "vp" else curve.title, *cells, len(both)])
    head = ["held-out error against trig + uniform, at noise scale", *(f"{scale:g}" for scale in SCALES), "seeds"]
    write("fv_held_out_table", table(head, rows) if rows else NOTHING)


def _main(found: Found) -> dict[str, Curve]:
    """The curves that figures show, all of them or, so that colours stay, none where there is nothing."""
    curves = found.curves("ablation")
    return {name: curves[name] for name in MAIN if curves[name].seeds}


def draw_landscape(found: Found) -> None:
    """`log L` of the first headline run against the log of the noise scale, and the polynomial's fit."""
    result = found.results.get("headline-fv-large-0") or {}
    rows: Mapping[str, list[Any]] = result.get("landscape") or {}
    times = list(dict.fromkeys(rows.get("step", [])))

    def paint(figure: Figure, page: Page) -> None:
        axis = figure.subplots()
        for place, step in enumerate(times):
            own = [i for i, at in enumerate(rows["step"]) if at == step]
            x, error, fit = ([rows[name][i] for i in own] for name in ("log_sigma", "log_loss", "fitted"))
            colour = COLOURS[place % len(COLOURS)]
            axis.plot(x, error, color=colour, linewidth=1.5, label=f"step {step:.0f}")
            axis.plot(x, _gaps(fit), color=colour, linewidth=1.1, linestyle="--")
        axis.set_xlabel("log noise scale")
        plain(axis, page, grid="both")
        axis.set_ylabel("log of the held-out error", color=page.ink)
        legend(figure, page, [axis], columns=6)

    _figure(
        "fv_landscape", times, paint, (6.4, 3.6), "Curves that rise with the noise and sink with training; fits dashed."
    )


def _gaps(values: Iterable[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
