"""The page about a sweep: how its trials went, what each field did, the table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from kedge.plan.drawing import LIGHT
from kedge.run.report.figures import plain_log
from kedge.run.report.page import page_path, write
from kedge.run.report.svg import STYLE, distinct_ids, panel, to_svg
from kedge.run.report.views import Picture
from kedge.run.sweep.results import SWEEP, Row, read_rows, read_sweep


def is_sweep(folder: Path | str) -> bool:
    """Whether a folder is that of a sweep."""
    return (Path(folder) / SWEEP).is_file()


def sweep_report(folder: Path | str, out: Path | str | None = None) -> Path:
    """Writes the page; returns its path.

    Args:
        folder: of the sweep.
        out: the file, or a folder to put `report.html` into; by default into the sweep's folder.
    """
    folder = Path(folder)
    words, rows = read_sweep(folder), read_rows(folder)
    path = page_path(folder, out)
    write(path, _page(folder, words, rows))
    return path


def _page(folder: Path, words: Mapping[str, Any], rows: Sequence[Row]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
    from matplotlib import rc_context

    told = words["sweep"]
    sign = -1.0 if told.get("direction") == "max" else 1.0
    order = sorted(rows, key=lambda row: (row.value is None, sign * (row.value or 0.0), row.number))
    over = dict(told.get("over", {}))
    with rc_context(rc=STYLE):  # pyright: ignore[reportArgumentType]
        figure = str(told.get("by", "score"))
        pictures = [_course(rows, figure, sign), *(_field(rows, name, over[name], figure) for name in over)]
    page = Environment(
        loader=PackageLoader("kedge.run", "report"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
    )
    text = page.get_template("sweep.html.j2").render(
        title=f"{folder.resolve().name}: a kedge sweep",
        version=version("kedge"),
        made=datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        css=files("kedge.run.report").joinpath("page.css").read_text(encoding="utf-8"),
        name=folder.resolve().name,
        recipe=told.get("recipe", ""),
        task=told.get("task") or "",
        chosen=words.get("chosen by", ""),
        figure=figure,
        best=words.get("best"),
        counts=words.get("counts", {}),
        importance=words.get("importance", {}),
        over=over,
        course=pictures[0],
        fields=pictures[1:],
        rows=[_cells(row, over) for row in order],
    )
    return distinct_ids(text)


def _cells(row: Row, over: Mapping[str, str]) -> dict[str, Any]:
    """A line of the table."""
    return {
        "folder": row.folder.name,
        "state": row.state + (f": {row.why}" if row.why else ""),
        "value": "" if row.value is None else f"{row.value:.4g}",
        "told": [_short(row.told.get(name, "")) for name in over],
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _finished(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.value is not None]


def _course(rows: Sequence[Row], figure: str, sign: float) -> Picture:
    """The figure of each trial in the order in which they began, and the best so far."""
    done = _finished(rows)
    number = np.array([row.number for row in done])
    value = np.array([row.value for row in done], dtype=float)
    drawing, ax = panel(6.4, 3.0)
    ax.plot(number, value, "o", color=LIGHT.blue, markersize=4)
    ax.step(number, sign * np.minimum.accumulate(sign * value), where="post", color=LIGHT.vermillion, linewidth=1.5)
    ax.set_xlabel("trial")
    ax.set_title(figure, loc="left")
    return Picture(to_svg(drawing, f"{figure} of each trial, and the best so far"))


def _field(rows: Sequence[Row], name: str, values: str, figure: str) -> Picture:
    """The figure against what a field was."""
    done = _finished(rows)
    drawing, ax = panel()
    if ":" in values:
        ax.plot([row.told[name] for row in done], [row.value for row in done], "o", color=LIGHT.blue, markersize=4)
        if values.endswith(":log"):
            plain_log(ax, "x")
    else:
        words = [" ".join(word.split()) for word in values.split(",")]
        places = {_key(word): i for i, word in enumerate(words)}
        ax.plot(
            [places[_key(row.told[name])] for row in done],
            [row.value for row in done],
            "o",
            color=LIGHT.blue,
            markersize=4,
        )
        ax.set_xticks(range(len(words)), words)
        ax.set_xlim(-0.5, len(words) - 0.5)
    ax.set_xlabel(name)
    ax.set_title(figure, loc="left")
    return Picture(to_svg(drawing, f"{figure} against {name}"))


def _key(word: Any) -> Any:
    """A value of a table: a number, where it is one."""
    try:
        return float(word)
    except ValueError:
        return word
