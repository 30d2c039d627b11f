"""kedge: learn, plan, align and deploy behaviour by denoising."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kedge import (
        align,
        constrain,
        data,
        distill,
        envs,
        exact,
        fit,
        guide,
        nets,
        paths,
        plan,
        policy,
        recipes,
        rl,
        steer,
        train,
    )
    from kedge.cond import Cond
    from kedge.denoise import Denoiser, Estimate
    from kedge.noise import Noise
    from kedge.recipes import load
    from kedge.run.compare import compare
    from kedge.run.evaluate import evaluate
    from kedge.run.export import export
    from kedge.run.scores import Scores
    from kedge.walk import Walk, grids, hooks, sample, solvers

__version__ = version("kedge")

_HOMES = {
    "Cond": "kedge.cond:Cond",
    "Denoiser": "kedge.denoise:Denoiser",
    "Estimate": "kedge.denoise:Estimate",
    "Noise": "kedge.noise:Noise",
    "Scores": "kedge.run.scores:Scores",
    "Walk": "kedge.walk:Walk",
    "align": "kedge.align",
    "compare": "kedge.run.compare:compare",
    "constrain": "kedge.constrain",
    "data": "kedge.data",
    "distill": "kedge.distill",
    "envs": "kedge.envs",
    "evaluate": "kedge.run.evaluate:evaluate",
    "exact": "kedge.exact",
    "export": "kedge.run.export:export",
    "fit": "kedge.fit",
    "grids": "kedge.walk.grids",
    "guide": "kedge.guide",
    "hooks": "kedge.walk.hooks",
    "load": "kedge.recipes:load",
    "nets": "kedge.nets",
    "paths": "kedge.paths",
    "plan": "kedge.plan",
    "policy": "kedge.policy",
    "recipes": "kedge.recipes",
    "rl": "kedge.rl",
    "sample": "kedge.walk:sample",
    "solvers": "kedge.walk.solvers",
    "steer": "kedge.steer",
    "train": "kedge.train",
}
"""Where each public name lives: a module, or a name in one. Rooms load when they are first asked for."""

__all__ = [
    "Cond", "Denoiser", "Estimate", "Noise", "Scores", "Walk", "align", "compare", "constrain", "data", "distill",
    "envs", "evaluate", "exact", "export", "fit", "grids", "guide", "hooks", "load", "nets", "paths", "plan", "policy",
    "recipes", "rl", "sample", "solvers", "steer", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'kedge' has no attribute {name!r}")
    module, _, attribute = home.partition(":")
    value = importlib.import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
