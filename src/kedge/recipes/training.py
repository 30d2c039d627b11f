"""A planning recipe at work on data: what it measures of it, what it builds, what it leaves in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from kedge.data import Normaliser, Pairs, Segments, Trajectories
from kedge.data.moments import Moments, moments
from kedge.errors import InputError
from kedge.fit import DenoisingLoss
from kedge.plan import Support
from kedge.recipes.landscape import Landscape
from kedge.recipes.networks import Sizes, build
from kedge.recipes.sources import Plans
from kedge.train import Sink, Tick, Trainer, save_weights

if TYPE_CHECKING:
    from kedge.recipes.planning import Planning

HELD_OUT = 0.02
"""Share of the steps, the last ones, that is kept to see how well the denoiser does on what it has not seen."""

MEASURED = "measured.safetensors"
"""What was measured of the data: scales, the places that were visited, the goal."""

SOURCES = 4
"""How many sources keep rows of the data, each its own."""


class Training:
    """One recipe on one data set with one seed."""

    def __init__(
        self,
        recipe: Planning,
        logs: Trajectories,
        run: Path | str | None,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        compile: bool | str = False,  # noqa: A002  torch's own word
        shard: bool = False,
        resident: bool | None = None,
        progress: bool | None = None,
        task: str | Mapping[str, Any] | None = None,
    ) -> None:
        """`resident`: whether the data is copied to the device, once; by default where that is a GPU with room for it.
        The rest is as `Planning.train` and `Trainer` have it.
        """
        check_logs(recipe, logs)
        self.recipe, self.run = recipe, None if run is None else Path(run)
        self.home = home(logs, device, resident)
        seen, held_out = divided(recipe, logs)
        sizes = Sizes(logs.dimensions.observation, logs.dimensions.action, still(seen))
        scale, normaliser = scales(recipe, seen)
        support = Support.fit(seen, recipe.support) if recipe.support else None
        self.goal = rewarded_place(seen) if recipe.states == "moving" else None
        with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU, wherever they go
            torch.default_generator.manual_seed(seed)
            self.models = build(recipe, sizes, scale, normaliser, support)
        source = self._source(seen, normaliser)
        self._standardise(source)
        recipe.ready(self.models, source)
        self.trainer = Trainer(
            recipe.parts(self.models),
            source,
            recipe.steps,
            self.run,
            seed=seed,
            recipe=described(recipe, self.models.sizes, logs, seed, task),
            device=device,
            precision=precision,
            compile=compile,
            shard=shard,
            progress=progress,
            sinks=self._sinks(held_out, normaliser),
        )
        self._keep()

    def agent(self) -> Any:
        """What acts, with the averaged weights as they are now: a copy, where the training ran."""
        if self.trainer.sharding is not None:
            raise InputError("no process of a sharded training has all weights: kedge.load(run) makes the agent of it")
        updaters = zip(self._names, self.trainer.updaters, strict=True)
        parts = {name: updater.part.weights() for name, updater in updaters}
        measured = {name: getattr(self.models, name) for name in ("scale", "normaliser", "support")}
        copies = {name: deepcopy(module) for name, module in (parts | measured).items() if module is not None}
        for module in copies.values():
            module.to(self.trainer.device).eval().requires_grad_(False)
        copies["more"] = {name: copies.pop(name) for name in self.models.more}
        return self.recipe.agent(self.models._replace(**copies), self.goal if self.recipe.aims else None)

    @property
    def _names(self) -> list[str]:
        return list(self.models.trained())

    def _windows(self, logs: Trajectories, normaliser: Normaliser, until: str, batch: int, seed: int = 0) -> Segments:
        rest = self.recipe.resting(logs.dimensions.observation)
        more = [*(["actions"] if self.recipe.actions else []), *self.recipe.columns]
        fields = ["states", self.recipe.judged, *more]
        state_scale = normaliser if not self.recipe.actions else self.models.scale
        return Segments(
            logs,
            self.recipe.horizon,
            self.recipe.stride,
            batch,
            normaliser=state_scale,
            until=until,
            rest=rest,
            fields=fields,
            seed=seed,
            device=self.home,
            discount=self.recipe.discount,
            past=self.recipe.past,
        )

    def _sinks(self, held_out: Trajectories | None, normaliser: Normaliser) -> list[Sink]:
        """The error on what was held out, if that is enough to look at and there is a folder to keep it in."""
        if self.run is None or held_out is None:
            return []
        if not isinstance(self.models.planner, DenoisingLoss):
            return []
        until = self.recipe.ends if any((chunk["rewards"] > 0).any() for chunk in held_out.chunks()) else "episode"
        windows = self._windows(held_out, normaliser, until, batch=128)
        return [Landscape(self.models.planner, windows, self.recipe.steps)]

    def _source(self, logs: Trajectories, normaliser: Normaliser) -> Plans:
        recipe = self.recipe
        windows = self._windows(logs, normaliser, recipe.ends, recipe.batch)
        told = self._windows(logs, normaliser, "random", recipe.batch, seed=1) if recipe.goals else None
        pairs = None
        if self.models.inverse is not None:
            # Diffusion Veteran's pairs lie exactly one stride apart; the regression hears how far apart they are
            offsets = (recipe.stride if recipe.follow == "inverse-diffusion" else 1, recipe.stride)
            relative = places(logs) if recipe.states == "moving" else ()
            pairs = Pairs(logs, offsets, recipe.pairs * recipe.batch, relative=relative, seed=2, device=self.home)
        companions = recipe.companions(logs, self.models, device=self.home)
        return Plans(windows, told, recipe.goals, pairs, companions)

    def _standardise(self, source: Plans) -> None:
        """Tells inverse dynamics the scale of what it hears; before a part copies it."""
        if source.pairs is not None:
            pairs = source.pairs
            wide = Pairs(pairs.logs, (pairs.low, pairs.high), 4096, relative=pairs.relative, seed=3)
            self.models.inverse.standardise(wide.next(Tick(0, 0)))

    def _keep(self) -> None:
        """Writes what was measured of the data, so that a run can be used without it."""
        if self.run is None:
            return
        tensors = {f"scale.{name}": value for name, value in self.models.scale.state_dict().items()}
        tensors |= {f"normaliser.{name}": value for name, value in self.models.normaliser.state_dict().items()}
        if self.models.support is not None:
            tensors |= {f"support.{name}": value for name, value in self.models.support.state_dict().items()}
        if self.goal is not None:
            tensors["goal"] = torch.from_numpy(self.goal)
        self.trainer.resume()  # the folder is ours, or this raises
        if self.trainer.crew.first:
            save_weights(self.run / MEASURED, tensors)


def described(
    recipe: Any, sizes: Sizes, logs: Trajectories, seed: int, task: str | Mapping[str, Any] | None
) -> dict[str, Any]:
    """What a run is. A task is its name, or all that is to be kept of it with the name as `name`."""
    data = {"digest": logs.digest, "steps": len(logs), "provenance": dict(logs.provenance)}
    known = {"environment": dict(task)} if isinstance(task, Mapping) else {}
    return {
        "recipe": type(recipe).__name__,
        "fields": asdict(recipe),
        "seed": seed,
        "task": task["name"] if isinstance(task, Mapping) else task,
        **known,
        "sizes": sizes.json(),
        "data": data,
    }


def home(logs: Trajectories, device: torch.device | str | None, resident: bool | None) -> torch.device | None:
    """Where the rows of the data are kept: on the device, or (None) where they lie."""
    place = torch.device("cpu" if device is None else device)
    if resident is None:
        width = logs.dimensions
        needed = SOURCES * 4 * len(logs) * (width.observation + width.action)
        resident = place.type == "cuda" and needed < torch.cuda.mem_get_info(place)[0] / 2
    return place if resident else None


def check_logs(recipe: Planning, logs: Trajectories) -> None:
    """One line before any long work, where the data does not fit."""
    name = type(recipe).__name__
    if not logs.rewarded:
        raise InputError(
            f"{name} learns what plans are worth from rewards, and the data carries none; add a column of rewards"
        )
    if recipe.states == "moving" and (logs.dimensions.observation % 2 or logs.dimensions.observation < 4):
        raise InputError(
            f"{name} plans for states of a position in the plane (or in space) and its velocity, so of an even number "
            f'of dimensions, 4 at least; the data has {logs.dimensions.observation}: take states="plain"'
        )
    if recipe.follow == "chase" and logs.dimensions.action != logs.dimensions.observation // 2:
        raise InputError(
            f"{name} pushes along each axis of the position, {logs.dimensions.observation // 2} in all, and the "
            f'actions of the data have {logs.dimensions.action} dimensions; take follow="inverse"'
        )
    longest = int(logs.lengths.max())
    if longest < 2 * recipe.stride:
        raise InputError(
            f"{name} plans {recipe.horizon} points {recipe.stride} steps apart, and the longest episode of the data "
            f"has {longest} steps, less than two strides: take a smaller stride, or longer episodes"
        )
    if not any((chunk["rewards"] > 0).any() for chunk in divided(recipe, logs)[0].chunks()):
        raise InputError(
            f"{name} learns what plans are worth from rewards, and no step of the data that it learns from earned a "
            "positive one"
        )


def divided(recipe: Planning, logs: Trajectories) -> tuple[Trajectories, Trajectories | None]:
    """What is learned from, and what is held out; nothing, where the data is so little that no window would fit in."""
    cut = round((1 - HELD_OUT) * len(logs))
    if 0 < cut < len(logs):
        seen, rest = logs.split(1 - HELD_OUT)
        if min(seen.lengths.max(), rest.lengths.max()) >= 2 * recipe.stride:
            return seen, rest
    return logs, None


def scales(recipe: Planning, logs: Trajectories) -> tuple[Normaliser, Normaliser]:
    """Of states, and of what is denoised. Where states move, positions share one scale and velocities another: a
    maze is not sheared.
    """
    groups = (places(logs), rest_dims(logs)) if recipe.states == "moving" else ()
    states = Normaliser.fit(logs, recipe.normalise, shared=groups)
    if not recipe.actions:
        return states, states
    actions = Normaliser.fit(logs.actions, recipe.normalise)
    both = Normaliser(torch.cat([states.shift, actions.shift]), torch.cat([states.scale, actions.scale]))
    return states, both


def still(logs: Trajectories) -> tuple[int, ...]:
    """The numbers of a state that never vary."""
    return tuple(np.flatnonzero(moments(logs.observations).constant).tolist())


def places(logs: Trajectories) -> tuple[int, ...]:
    """The positions: the first half of a state."""
    return tuple(range(logs.dimensions.observation // 2))


def rest_dims(logs: Trajectories) -> tuple[int, ...]:
    """The velocities: the second half of a state."""
    d = logs.dimensions.observation // 2
    return tuple(range(d, 2 * d))


def rewarded_place(logs: Trajectories) -> Float[np.ndarray, " g"] | None:
    """Where rewards were earned: the mean position of the rewarded steps. None where they were earned all over: with a
    spread of more than half of that of all positions, along some axis.
    """
    d = logs.dimensions.observation // 2
    earned, everywhere = list[Moments](), list[Moments]()
    for chunk in logs.chunks():  # what is mapped from disk may be larger than memory
        everywhere.append(moments(chunk["observations"][:, :d]))
        if (rewarded := chunk["rewards"] > 0).any():
            earned.append(moments(chunk["observations"][rewarded, :d]))
    if not earned:
        return None
    place, whole = reduce(Moments.merged, earned), reduce(Moments.merged, everywhere)
    return None if (place.std > 0.5 * whole.std).any() else place.mean
