"""kedge: learn, plan, align and deploy behaviour by denoising."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kedge import exact, fit, guide, nets, paths, train
    from kedge.cond import Cond
    from kedge.denoise import Denoiser, Estimate
    from kedge.noise import Noise
    from kedge.walk import Walk, grids, hooks, sample, solvers

__version__ = version("kedge")

_HOMES = {
    "Cond": "kedge.cond",
    "Denoiser": "kedge.denoise",
    "Estimate": "kedge.denoise",
    "Noise": "kedge.noise",
    "Walk": "kedge.walk",
    "exact": "kedge.exact",
    "fit": "kedge.fit",
    "grids": "kedge.walk.grids",
    "guide": "kedge.guide",
    "hooks": "kedge.walk.hooks",
    "nets": "kedge.nets",
    "paths": "kedge.paths",
    "sample": "kedge.walk",
    "solvers": "kedge.walk.solvers",
    "train": "kedge.train",
}
"""Where each public name lives. Rooms load when they are first asked for."""

__all__ = [
    "Cond", "Denoiser", "Estimate", "Noise", "Walk", "exact", "fit", "grids", "guide", "hooks", "nets", "paths",
    "sample", "solvers", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'kedge' has no attribute {name!r}")
    module = importlib.import_module(home)
    value = module if home.endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
