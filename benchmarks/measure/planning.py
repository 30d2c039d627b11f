"""What is measured of the planner FV: the arms, the sizes, and the queue of jobs in the order of what matters most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from kedge import recipes
from kedge.recipes import DV, FV
from kedge.run.evaluate import REPORTING
from measure.exact import PROBLEMS
from measure.jobs import Job

# What the ablation costs is decided here.

ABLATION: dict[str, Any] = {"steps": 1000}
"""The recipe that the arms of the ablation share, as changes to `FV()`."""
CANDIDATES = 8
"""Plans to choose from where arms are compared: with many, the best of them is good in every arm."""
SHARES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Checkpoints of the ablation, as shares of its steps."""
FEWER = (0.25, 0.5, 1.0)
"""... and of the smaller comparisons."""
DIT = {"net": "dit", "width": 96}
CONV = {"net": "conv", "width": 64}
FEW = {"batch": 8}
"""Few samples a level: where a weighting has the least to go by."""

SHORT_DV: dict[str, Any] = {"steps": 1500, "batch": 64, "replan": 15}
"""Diffusion Veteran where there is no GPU: a schedule that ends, and a new plan at every fifteenth step only."""
DV_EPISODES = 20
"""It is slow at acting as well."""

GPU: dict[str, Any] = {"device": "cuda", "precision": "bf16", "compile": True}
"""Where Diffusion Veteran is trained to the letter; the data are kept there too."""
GPU_SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Checkpoints there."""

EXACT: dict[str, Any] = {"steps": 1000, "seeds": 5}
"""How long small networks learn mixtures, and how often."""

SEEDS, SOME_SEEDS = (0, 1, 2, 3, 4), (0, 1, 2)
MAZES = ("large", "medium", "umaze")


@dataclass(frozen=True)
class Scale:
    """How large everything is: `FULL`, or `SMOKE` to see that it runs."""

    name: str = "full"
    demonstrations: int = 2_000_000
    episodes: int = 500
    starts: int = 100
    candidates: int = CANDIDATES
    rounds: int = 7
    small: bool = False

    def headline(self) -> dict[str, Any]:
        """Changes to `FV()` for the headline: none, but for a trial."""
        return {"steps": 24, "batch": 8, "width": 16, "candidates": 4} if self.small else {}

    def arm(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Changes to `FV()` for an arm."""
        less = {"steps": 24, "batch": 8, "width": 16} if self.small else {}
        return {**ABLATION, **changes, **less}


FULL = Scale()
SMOKE = Scale("smoke", demonstrations=20_000, episodes=4, starts=2, candidates=3, rounds=1, small=True)

# An arm is a training. A walk is how plans are drawn from what was trained; some are looked at only in the end.

Changes = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """A training, as changes to the shared recipe, and the walks that it is evaluated with, as changes to that.

    The first walk of an arm bears its name.
    """

    name: str
    changes: Changes
    walks: tuple[tuple[str, Changes], ...] = ()
    at_last: tuple[tuple[str, Changes], ...] = ()

    def everywhere(self) -> tuple[tuple[str, Changes], ...]:
        """Those at every checkpoint."""
        return self.walks or ((self.name, {}),)


VP = {"path": "vp", "predict": "eps", "weighting": "eps"}
DDIM = {"solver": "ddim"}

ARMS = (
    Arm(
        "vp", VP,
        walks=(("vp", {**DDIM, "rho": 0.0}), ("vp-2m", {})),
        at_last=(("vp-ddim-edm-grid", DDIM), ("vp-2m-own-grid", {"rho": 0.0})),
    ),
    Arm("uniform", {"weighting": "uniform"}, at_last=(("uniform-ddim", DDIM),)),
    Arm("min-snr", {"weighting": "min-snr"}),
    Arm("head", {"weighting": "head"}),
    Arm("polynomial", {"weighting": "polynomial", "regress": "gamma", "smooth": "statistics"}),
    Arm("polynomial-gamma-coefficients", {"weighting": "polynomial", "regress": "gamma", "smooth": "coefficients"}),
    Arm("polynomial-log-statistics", {"weighting": "polynomial", "regress": "log", "smooth": "statistics"}),
    Arm("polynomial-log-coefficients", {"weighting": "polynomial", "regress": "log", "smooth": "coefficients"}),
)  # fmt: skip
MANY = {"evaluations": 20}
EVALUATIONS = (
    Arm("vp-20", {**VP, **DDIM, "rho": 0.0, **MANY}),
    Arm("uniform-20", {"weighting": "uniform", **MANY}),
)
"""As many network evaluations as Diffusion Veteran has, where the ablation has a quarter of them."""
DEGREES = tuple(Arm(f"degree-{degree}", {"degree": degree}) for degree in (3, 5, 7))
NETS = (Arm("dit", DIT), Arm("conv", CONV))
"""The U-Net is the ablation's polynomial arm."""
FEW_ARMS = (
    Arm("few-uniform", {**FEW, "weighting": "uniform"}),
    Arm("few-head", {**FEW, "weighting": "head"}),
    Arm("few-polynomial", FEW),
    Arm("dit-uniform", {**DIT, "weighting": "uniform"}),
)
"""The last one is compared with the transformer among `NETS`, which has the polynomial."""

REFERENCE = "uniform"
"""The arm that others are compared with."""


def jobs(scale: Scale = FULL) -> list[Job]:
    """All of them, first what is wanted first."""
    return [
        *headline(scale), *ablation(scale), *degrees(scale), *nets(scale), *rates(scale), *few(scale), *targets(scale),
        *veteran(scale), *evaluations(scale), *letter(scale),
    ]  # fmt: skip


def headline(scale: Scale) -> Iterator[Job]:
    """The default recipe in each maze, and what stands beside it."""
    for maze in MAZES:
        made = [Job(f"headline-fv-{maze}-{seed}", _headline(scale, maze, seed)) for seed in SOME_SEEDS]
        yield from made
        beside = made[0].settings | {"kind": "beside"}
        yield Job(f"headline-beside-{maze}", beside, after=made[0].name)


def ablation(scale: Scale) -> Iterator[Job]:
    """Seed by seed, so that all arms have the first one first."""
    for seed in SEEDS:
        for arm in ARMS:
            yield _curve(scale, "ablation", arm, "large", seed, SHARES)


def degrees(scale: Scale) -> Iterator[Job]:
    """The polynomial's degree, in the medium maze."""
    for seed in SOME_SEEDS:
        for arm in DEGREES:
            yield _curve(scale, "degree", arm, "medium", seed, FEWER)


def evaluations(scale: Scale) -> Iterator[Job]:
    """What more network evaluations bring; looked at in the end only."""
    for seed in SOME_SEEDS:
        for arm in EVALUATIONS:
            yield _curve(scale, "evaluations", arm, "large", seed, SHARES[-1:])


def nets(scale: Scale) -> Iterator[Job]:
    """Other networks."""
    for seed in SOME_SEEDS:
        for arm in NETS:
            yield _curve(scale, "nets", arm, "large", seed, SHARES)


def rates(scale: Scale) -> Iterator[Job]:
    """Times, for which the machine must be quiet."""
    for kind in ("plans", "mazes", "latency"):
        yield Job(f"rates-{kind}", {"kind": f"rates-{kind}", "scale": scale.name, "rounds": scale.rounds}, alone=True)


def few(scale: Scale) -> Iterator[Job]:
    """Where a weighting that learns must help, if anywhere."""
    for seed in SOME_SEEDS:
        for arm in FEW_ARMS:
            yield _curve(scale, "few", arm, "large", seed, SHARES)


def targets(scale: Scale) -> Iterator[Job]:
    """Weightings on targets whose best denoiser is known."""
    sizes = {"steps": 10, "seeds": 1} if scale.small else EXACT
    for problem in PROBLEMS:
        yield Job(f"exact-{problem}", {"kind": "exact", "problem": problem, "scale": scale.name, **sizes})


def veteran(scale: Scale) -> Iterator[Job]:
    """Diffusion Veteran in the large maze."""
    less = {"steps": 4, "batch": 8, "width": 16, "candidates": 2} if scale.small else {}
    shared = _shared(scale, "large", 0) | {"episodes": min(DV_EPISODES, scale.episodes)}
    fields = asdict(replace(DV(), **(SHORT_DV | less)))
    yield Job("headline-dv-large-0", {"kind": "headline", **shared, "recipe": "DV", "fields": fields})


def letter(scale: Scale) -> Iterator[Job]:
    """Diffusion Veteran as its authors trained it, and FV beside it: score against steps and seconds, on a GPU."""
    less = {"steps": 4, "batch": 8, "width": 16, "candidates": 2} if scale.small else {}
    where = {"device": "cpu"} if scale.small else GPU
    for name, fields in (("dv", asdict(replace(DV(), **less))), ("fv", asdict(replace(FV(), **scale.headline())))):
        settings = {
            "kind": "curve",
            "arm": name,
            **_shared(scale, "large", 0),
            "recipe": name.upper(),
            "fields": fields,
            "starts": scale.starts,
            "candidates": fields["candidates"],
            "checkpoints": sorted({max(1, round(share * fields["steps"])) for share in GPU_SHARES}),
            "walks": {name: {}},
            "at_last": {},
            "where": where,
        }
        yield Job(f"gpu-{name}-large-0", settings, alone=True, gpu=not scale.small)


def recipe(settings: Mapping[str, Any]) -> Any:
    """A recipe of what JSON kept of it: FV, where it does not say which."""
    fields: Mapping[str, Any] = settings["fields"]
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return getattr(recipes, settings.get("recipe", "FV"))(**given)


def known(kind: type, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the changes that a recipe has a field for."""
    return {name: value for name, value in changes.items() if name in kind.__dataclass_fields__}


def _shared(scale: Scale, maze: str, seed: int) -> dict[str, Any]:
    return {
        "scale": scale.name,
        "maze": maze,
        "seed": seed,
        "demonstrations": scale.demonstrations,
        "episodes": scale.episodes,
        "first_seed": REPORTING,
    }


def _headline(scale: Scale, maze: str, seed: int) -> dict[str, Any]:
    fields = asdict(replace(FV(), **scale.headline()))
    return {"kind": "headline", **_shared(scale, maze, seed), "fields": fields}


def _curve(scale: Scale, family: str, arm: Arm, maze: str, seed: int, shares: tuple[float, ...]) -> Job:
    fields = asdict(replace(FV(), **scale.arm(arm.changes)))
    shares = shares[-2:] if scale.small else shares
    settings = {
        "kind": "curve",
        "arm": arm.name,
        **_shared(scale, maze, seed),
        "fields": fields,
        "starts": scale.starts,
        "candidates": scale.candidates,
        "checkpoints": [max(1, round(share * fields["steps"])) for share in shares],
        "walks": dict(arm.everywhere()),
        "at_last": dict(arm.at_last),
    }
    return Job(f"{family}-{arm.name}-{maze}-{seed}", settings)
