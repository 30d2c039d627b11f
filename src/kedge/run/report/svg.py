"""Pictures as SVG that belongs to the page: its fonts, its light and dark colours, ids of its own, nothing fetched."""

from __future__ import annotations

import html
import io
import re
from itertools import count
from typing import Any

from kedge.plan.drawing import LIGHT

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: small, sharp, and in the page's font
    "svg.hashsalt": "kedge",  # the same picture gives the same bytes
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LIGHT.muted,
    "axes.labelcolor": LIGHT.muted,
    "axes.titlecolor": LIGHT.ink,
    "text.color": LIGHT.ink,
    "xtick.color": LIGHT.muted,
    "ytick.color": LIGHT.muted,
    "axes.grid": True,
    "grid.color": LIGHT.line,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify_threshold": 0.25,
}
"""matplotlib's settings while pictures are made: `with rc_context(STYLE)`."""


def variables() -> dict[str, str]:
    """The palette's colours, by the names that the page's style sheet gives them."""
    names = {name: getattr(LIGHT, name) for name in vars(LIGHT) if name != "ramp"}
    return names | {f"ramp{i}": colour for i, colour in enumerate(LIGHT.ramp)}


def panel(width: float = 4.2, height: float = 2.9, below: float = 0.5) -> tuple[Any, Any]:
    """A figure of one pair of axes, small enough to be read on a phone; a page sets several side by side.

    All in inches; the margins are given, since finding them by drawing takes longer than all the rest.
    """
    from matplotlib.figure import Figure

    left, right, above = 0.55, 0.12, 0.3
    figure = Figure(figsize=(width, height))
    place = (left / width, below / height, 1 - (left + right) / width, 1 - (below + above) / height)
    return figure, figure.add_axes(place)


def to_svg(figure: Any, alt: str) -> str:
    """A figure as an `<svg>` element that reads out `alt`."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"font-family:[^;\"]*;?", "", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = text.replace("stroke: #000000; stroke-opacity: 0", "stroke: none")
    for name, colour in variables().items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)


def distinct_ids(page: str) -> str:
    """The page with ids in its pictures that occur once; those that nothing refers to go."""
    number = count()

    def renamed(found: re.Match[str]) -> str:
        picture, own = found[0], f"p{next(number)}-"
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', picture))
        picture = re.sub(r'\sid="([^"]*)"', lambda id_: f' id="{own}{id_[1]}"' if id_[1] in used else "", picture)
        return re.sub(r'(url\(#|href="#)', rf"\1{own}", picture)

    return re.sub(r"<svg.*?</svg>", renamed, page, flags=re.DOTALL)
