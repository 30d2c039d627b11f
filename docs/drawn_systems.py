"""Draws the catalogue, a section a family, from what the package itself says of its systems.

A Sphinx extension, as `drawn` is.
"""

from __future__ import annotations

from typing import Any

from drawn import write
from sphinx.application import Sphinx

from kedge.run.catalogue import System, catalogue, families

TITLES = {
    "align": "Alignment",
    "net": "Networks",
    "planner": "Planners",
    "policy": "Policies",
    "posterior": "Targets and posteriors",
    "solver": "Solvers",
}
"""Heads of the families; of one that is not here, its name."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw() -> None:
    """A section for each family, a card for each system: side by side where there is room."""
    pieces = [f"{len(catalogue())} systems in {len(families())} families.\n"]
    for family in families():
        title = TITLES.get(family, family.replace("_", " ").capitalize())
        cards = "\n".join(card(system) for system in catalogue() if system.family == family)
        pieces.append(f"## {title}\n\n::::{{container}} panels cards\n{cards}\n::::\n")
    write("systems", "\n".join(pieces))


def card(system: System) -> str:
    """Name, what it is, its figure with its origin, its code, its paper."""
    named = ((name, module) for module, _, name in (place.partition(":") for place in system.code))
    code = ", ".join(f"`{name}` in `{module}`" for name, module in named)
    demanded = f"[its test](../{system.test}) demands it"
    origin = " and ".join([*(["measured"] if system.stored else []), *([demanded] if system.demands else [])])
    paper = "" if system.paper is None else f", [{system.paper}]({system.link})"
    lines = (
        f"**[{system.id}]({system.page})**: {system.what}.",
        f"*{system.figure[0].upper()}{system.figure[1:]}* ({origin}).",
        f"{code}. {system.title}{paper}.",
    )
    return ":::{container}\n" + "\n\n".join(lines) + "\n:::"
