"""The fitted grids of a run, as commands use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedge.errors import InputError


def on_grid(folder: Path, agent: Any, name: str) -> tuple[Any, str]:
    """The agent on a grid of its run, and what is noted of that: the name, and a checksum of the grid, for a name may
    be fitted anew.
    """
    from kedge.distill.run_grids import load_grid
    from kedge.plan import Agent
    from kedge.recipes.grid import on_fitted
    from kedge.run.commands.runs import recipe_of
    from kedge.run.notes import notes_of
    from kedge.train.checkpoint import digest
    from kedge.train.progress import announce

    if not isinstance(agent, Agent):
        raise InputError(f"{folder} acts step by step and plans nothing ({agent.label}): --grid works on plans")
    grid, about = load_grid(folder, name)
    if about.get("agent") != notes_of(folder, recipe_of(folder), {})["agent"]:
        announce(f"note: {name} was fitted to other weights than {folder} has now: kedge grid fit makes it anew")
    seal = digest({"scales": list(grid.scales), "told": list(grid.told)})[:8]
    return on_fitted(agent, grid), f"{name} {seal}"
