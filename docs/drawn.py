"""Draws what the pages show: two moons' samples, and the figures and tables of `benchmarks/results/kernel.json`.

A Sphinx extension. Before each build it writes Markdown and SVG into `docs/_drawn`, which the pages include, so that no
figure and no number of a measurement is ever typed. Each figure is drawn twice, for light and for dark pages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

DOCS = Path(__file__).resolve().parent
DRAWN = DOCS / "_drawn"
RESULT = DOCS.parent / "benchmarks" / "results" / "kernel.json"
NOTHING = "*Not measured yet.*\n"
"""What stands where a result would."""

# Okabe and Ito's palette, which all kinds of colour vision tell apart.
ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")

WIDE = 6.5
"""Inches from which on a figure scrolls on a narrow page, for its words would be too small."""

OWN_TIME = ("Euler", "Heun")
"""The solvers that integrate in the path's own time; the others work in `(alpha, sigma)`."""

Painter = Callable[[Figure, "Page"], None]


@dataclass(frozen=True)
class Page:
    """What a figure is drawn on."""

    name: str
    ink: str
    faint: str


PAGES = Page("light", "#24292f", "#d5d9de"), Page("dark", "#dfe2e6", "#3a3f45")


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    app.setup_extension("drawn_fv")
    app.setup_extension("drawn_align")
    app.setup_extension("drawn_home")
    app.setup_extension("drawn_systems")
    app.setup_extension("drawn_history")
    app.setup_extension("drawn_steer")
    app.setup_extension("drawn_planners")
    app.setup_extension("drawn_drill")
    app.setup_extension("drawn_serve")
    app.setup_extension("drawn_export")
    app.setup_extension("drawn_quantise")
    app.setup_extension("drawn_play")
    app.setup_extension("drawn_unseen")
    app.setup_extension("drawn_kitchen")
    app.setup_extension("drawn_solvers")
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw() -> None:
    """All of it."""
    DRAWN.mkdir(exist_ok=True)
    result = measured()
    draw_samples()
    draw_provenance(result)
    draw_walks(result["walk"])
    draw_solver_costs(result.get("solvers", []))
    draw_whole(result.get("whole", {}))
    draw_training(result["training_step"])
    draw_orders(result["orders"])
    draw_weightings(result["weightings"])


def stored_results(folder: Path, pattern: str = "*.json") -> dict[str, dict[str, Any]]:
    """Each job's result in a folder, by the job's name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(pattern))}


def measured() -> dict[str, Any]:
    """The stored result; says in one line what to do where there is none."""
    where = RESULT.relative_to(DOCS.parent)
    try:
        result = json.loads(RESULT.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExtensionError(f"{where} is missing: `make bench` measures and writes it") from None
    except ValueError as error:
        raise ExtensionError(f"{where} cannot be read ({error}): `make bench` writes it anew") from None
    missing = {"commit", "machine", "versions", "walk", "training_step", "orders", "weightings"} - result.keys()
    if missing:
        raise ExtensionError(f"{where} lacks {', '.join(sorted(missing))}: `make bench` writes it anew")
    return result


# The figure of the page on how it works


def draw_samples() -> None:
    """Runs the code of the section that shows this figure, block by block, and draws its data and its samples."""
    names: dict[str, Any] = {}
    sections = (DOCS / "how.md").read_text(encoding="utf-8").split("\n## ")
    section = next(text for text in sections if "_drawn/moons.md" in text)
    for block in re.findall(r"^```python\n(.*?)^```", section, re.M | re.S):
        exec(compile(block, "docs/how.md", "exec"), names)
    sets = {"data": names["moons"][:2000], "samples": names["samples"]}

    def paint(figure: Figure, page: Page) -> None:
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        for axis, (name, points), colour in zip(axes, sets.items(), (VERMILION, BLUE), strict=True):
            axis.scatter(*points.numpy().T, s=2, linewidths=0, color=colour, rasterized=True)
            axis.set_title(name, color=page.ink, fontsize=10)
            axis.set_aspect("equal")
            axis.axis("off")

    figure_of("moons", (6.4, 2.2), paint, alt="Two half circles of data, and the model's samples, which lie on them.")


# The benchmarks' figures and tables


def draw_provenance(result: Mapping[str, Any]) -> None:
    """Where, when and with what it was measured."""
    machine, commit = result["machine"], result["commit"]
    known = re.fullmatch(r"[0-9a-f]{40}( and changes)?", commit)
    rows = {
        "commit": f"`{commit[:12]}`{commit[40:]}" if known else "none: measured before the first commit",
        "processor": f"{machine['cpu']}, {machine['cores']} cores",
        "system": f"{machine['system']}, Python {machine['python']}",
        "versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    }
    for part, origin in result.get("parts", {}).items():
        rows[f"{part}, measured apart"] = f"`{origin['commit'][:12]}`, {origin['machine']['cpu']}"
    write("provenance", table(["measured on", ""], rows.items()))


def draw_walks(walks: Sequence[Mapping[str, Any]]) -> None:
    """Microseconds a step beside the network calls: bars, and a table with the spread."""
    colours = dict(zip(dict.fromkeys(row["library"] for row in walks), COLOURS, strict=False))

    def paint(figure: Figure, page: Page) -> None:
        axis = figure.subplots()
        for place, row in enumerate(walks):
            axis.barh(place, row["us_per_step"], height=0.7, color=colours[row["library"]])
            axis.annotate(
                f"{row['us_per_step']:.0f}", (row["us_per_step"], place), (4, 0), textcoords="offset points",
                va="center", color=page.ink, fontsize=9,
            )  # fmt: skip
        axis.set_yticks(range(len(walks)), [f"{row['library']}: {row['walk']}" for row in walks])
        axis.invert_yaxis()
        axis.margins(x=0.1)
        axis.set_xlabel("microseconds a step, beyond the network")
        plain(axis, page, grid="x")
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)

    figure_of("walks", (7.2, 0.34 * len(walks) + 0.7), paint, alt="The table below, as bars.")
    rows = [
        (row["library"], row["walk"], f"{row['us_per_step']:.1f}", f"{row['p5']:.1f} to {row['p95']:.1f}")
        for row in walks
    ]
    write("walks_table", table(["library", "walk", "us a step (median)", "5 to 95 % of runs"], rows))


def draw_solver_costs(rows: Sequence[Mapping[str, Any]]) -> None:
    """What every solver takes around a network call, and beside the default one; those that were measured."""
    lines = [
        (f"`{row['solver']}`", row["calls"], *(f"{row[key]:.0f}" for key in ("us_per_call", "us_per_step")), times(row))
        for row in rows
    ]
    head = ["solver", "calls in 20 steps", "us a call", "us a step", "a call, of 2M's"]
    write("solver_costs", table(head, lines) if lines else NOTHING)


def times(row: Mapping[str, Any]) -> str:
    """How a solver compares, and whether it has to plan every walk anew."""
    return f"{row['of_default']:.1f}" + ("" if row["plan_kept"] else ", planned in each walk")


def draw_whole(found: Mapping[str, Any]) -> None:
    """Walks step by step and in one piece."""
    lines = [
        (row["net"], row["batch"], row["how"], f"{row['ms']:.2f}", f"{row['ratio']:.2f}", f"{row['ready_s']:.0f} s")
        for row in found.get("rows", [])
    ]
    if not lines:
        write("whole", NOTHING)
        return
    head = ["network", "batch", "", f"ms on {found['device']}", "of step by step", "ready"]
    write("whole", table(head, lines) + "".join(f"\n{line[0].upper()}{line[1:]}.\n" for line in found["absent"]))


def draw_training(figures: Mapping[str, float]) -> None:
    """A training step by hand and by the trainer."""
    rows: list[list[str]] = []
    for name, key in ("without a moving average", ""), ("with a moving average", "_average"):
        times = [f"{figures[f'{who}{key}_us'] / 1000:.2f} ms" for who in ("bare", "trainer")]
        rows.append([name, *times, f"{figures['ratio' + key]:.3f}"])
    size = f"A network of {figures['parameters']:,.0f} parameters.\n\n".replace(",", " ")
    write("training", size + table(["", "by hand", "by the trainer", "ratio (median of pairs)"], rows))


def draw_orders(rows: Sequence[Mapping[str, Any]]) -> None:
    """Errors against network evaluations, and the slopes."""
    paths = list(dict.fromkeys(row["path"] for row in rows))
    orders = {row["solver"]: row["order"] for row in rows}
    slopes = {(row["solver"], row["path"]): f"{row['slope']:.2f}" for row in rows}
    lines = [(solver, order, *(slopes[solver, path] for path in paths)) for solver, order in orders.items()]
    write("orders_table", table(["solver", "order", *paths], lines))
    exponential = [row for row in rows if row["solver"] not in OWN_TIME]
    apart = f"{100 * largest_difference(exponential):.1g} %"
    what = "All others are exponential integrators: they take equal steps of log-SNR, and their errors on the"
    write("orders_apart", f"{what} {len(paths)} paths differ by at most {apart}.\n")

    def paint(figure: Figure, page: Page) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        ends = {
            left: curves(left, page, exponential, by="solver"),
            right: curves(right, page, [row for row in rows if row["solver"] in OWN_TIME], by="path"),
        }
        for axis, named in ends.items():  # once both have set the scale that they share
            name_ends(axis, page, named)
        left.set_title("exponential, on all paths", color=page.ink, fontsize=10)
        right.set_title("in the path's own time", color=page.ink, fontsize=10)
        left.set_ylabel("relative error")

    alt = "Straight lines in double logarithmic scale, whose slopes are in the table below."
    figure_of("orders", (8.4, 4.2), paint, alt=alt)


def draw_weightings(rows: Sequence[Mapping[str, Any]]) -> None:
    """How far the polynomial stays from the best one of its degree, and that one from the truth."""
    sizes = sorted({row["batch"] for row in rows})
    groups: dict[tuple[Any, ...], dict[int, str]] = {}
    for row in rows:
        case = f"{row['std']}", f"{row['best_fit_error']:.3f}", f"`{row['regress']}`", f"`{row['smooth']}`"
        groups.setdefault(case, {})[row["batch"]] = f"{row['distance']:.3f}"
    lines = [(*case, *(found.get(size, "") for size in sizes)) for case, found in groups.items()]
    head = ["std", "best fit's own error", "regress", "smooth", *(f"batches of {size}" for size in sizes)]
    write("weightings", table(head, lines))


def largest_difference(rows: Sequence[Mapping[str, Any]]) -> float:
    """How far a solver's errors differ between paths, relative to them."""
    apart = 0.0
    for solver in {row["solver"] for row in rows}:
        for errors in zip(*(row["errors"] for row in rows if row["solver"] == solver), strict=True):
            apart = max(apart, max(errors) / min(errors) - 1)
    return apart


def curves(axis: Axes, page: Page, rows: Sequence[Mapping[str, Any]], by: str) -> dict[str, tuple[float, float, str]]:
    """One line a row, coloured by `by`; where each one ends, and its colour, by its name."""
    colour = dict(zip(dict.fromkeys(row[by] for row in rows), zip(COLOURS, MARKERS, strict=True), strict=False))
    ends: dict[str, tuple[float, float, str]] = {}
    for row in rows:
        shade, marker = colour[row[by]]
        dashes = "--" if by == "path" and row["order"] == 1 else "-"
        axis.loglog(row["evaluations"], row["errors"], dashes, color=shade, marker=marker, markersize=4, linewidth=1.3)
        name = row["solver"] if by == "solver" else f"{row['solver']}, {row['path']}"
        ends[re.sub(r"DPM-Solver\+\+\((\w+)\)", r"\1", name)] = row["evaluations"][-1], row["errors"][-1], shade
    axis.set_xlabel("network evaluations")
    axis.set_xticks([10, 30, 100, 300], ["10", "30", "100", "300"])
    axis.minorticks_off()
    plain(axis, page, grid="both")
    return ends


def name_ends(axis: Axes, page: Page, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Names to the right of the panel, in the order of the lines' ends and apart from each other."""
    low, high = (log10(y) for y in axis.get_ylim())
    gap, place = (high - low) / 19, inf
    for name, (x, y, shade) in sorted(ends.items(), key=lambda item: -item[1][1]):
        place = min(place - gap, log10(y))
        axis.annotate(
            name, (x, y), (1.03, (place - low) / (high - low)), textcoords="axes fraction", va="center", fontsize=8.5,
            color=page.ink, arrowprops={"arrowstyle": "-", "color": shade, "lw": 0.7, "shrinkA": 1, "shrinkB": 3},
        )  # fmt: skip


# How things are written


def plain(axis: Axes, page: Page, grid: str) -> None:
    """Two spines, a faint grid, and ink that fits the page."""
    axis.set_axisbelow(True)
    axis.grid(axis=grid, color=page.faint, linewidth=0.6)  # pyright: ignore[reportArgumentType]
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(page.faint)
    axis.tick_params(colors=page.ink, labelsize=9, color=page.faint)
    axis.xaxis.label.set_color(page.ink)
    axis.yaxis.label.set_color(page.ink)


def figure_of(name: str, size: tuple[float, float], paint: Painter, alt: str) -> None:
    """Both versions of a figure, and the Markdown that shows the one that fits."""
    shown = []
    for page in PAGES:
        with mpl.rc_context({"svg.hashsalt": "kedge", "font.size": 9, "font.family": "DejaVu Sans"}):
            figure = Figure(size, layout="constrained")
            paint(figure, page)
            file = f"{name}-{page.name}.svg"
            figure.savefig(DRAWN / file, transparent=True, dpi=200, metadata={"Date": None})
        shown.append(f"```{{image}} _drawn/{file}\n:alt: {alt}\n:class: only-{page.name}\n:width: 100%\n```\n")
    text = "\n".join(shown)
    write(name, f":::{{container}} wide\n{text}:::\n" if size[0] > WIDE else text)


def table(head: Sequence[str], rows: Any) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def write(name: str, text: str) -> None:
    """A piece of Markdown for a page to include."""
    (DRAWN / f"{name}.md").write_text(text, encoding="utf-8")


def write_origin(name: str, make: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Where the figures of a queue of jobs come from."""
    if not results:
        write(name, NOTHING)
        return
    commits = sorted({result["commit"].split(" ")[0][:10] for result in results.values()})
    days = sorted({result["when"][:10] for result in results.values()})
    machine = next(iter(results.values()))["machine"]
    write(
        name,
        f"{len(results)} results of `make {make}`, {' to '.join(dict.fromkeys((days[0], days[-1])))}, at commit "
        f"{', '.join(f'`{commit}`' for commit in commits)}, on {machine['cores']} cores ({machine['cpu']}), one thread "
        "a job.\n",
    )
