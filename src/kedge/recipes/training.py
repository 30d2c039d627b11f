"""A planning recipe at work on data: what it measures of it, what it builds, what it leaves in its folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from kedge.data import Normaliser, Pairs, Segments, Trajectories
from kedge.errors import InputError
from kedge.plan import Agent, Support
from kedge.recipes.landscape import Landscape
from kedge.recipes.networks import Models, Sizes, build
from kedge.recipes.sources import Plans
from kedge.train import Trainer, save_weights

if TYPE_CHECKING:
    from kedge.recipes.planning import Planning

HELD_OUT = 0.02
"""Share of the steps, the last ones, that is kept to see how well the denoiser does on what it has not seen."""

MEASURED = "measured.safetensors"
"""What was measured of the data: scales, the places that were visited, the goal."""


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
        progress: bool | None = None,
        task: str | None = None,
    ) -> None:
        check_logs(recipe, logs)
        self.recipe, self.run = recipe, None if run is None else Path(run)
        seen, held_out = logs.split(1 - HELD_OUT)
        sizes = Sizes(logs.dimensions.observation, logs.dimensions.action)
        scale, normaliser = scales(recipe, seen)
        support = Support.fit(seen, recipe.support) if recipe.support else None
        self.goal = rewarded_place(seen)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.models = build(recipe, sizes, scale, normaliser, support)
        source = self._source(seen, normaliser)
        windows = self._windows(held_out, normaliser, "reward", batch=512)
        self.trainer = Trainer(
            recipe.parts(self.models),
            source,
            recipe.steps,
            self.run,
            seed=seed,
            recipe=self._described(logs, seed, task),
            device=device,
            progress=progress,
            sinks=[] if self.run is None else [Landscape(self.models.planner, windows, recipe.steps)],
        )
        self._standardise(source)
        self._keep()

    def agent(self) -> Agent:
        """What acts, with the averaged weights as they are now."""
        averaged = {
            name: updater.part.weights() for name, updater in zip(self._names, self.trainer.updaters, strict=True)
        }
        models: Models = self.models._replace(**{name: module.eval() for name, module in averaged.items()})
        goal = self.goal if self.recipe.goals or self.recipe.actions else None
        return self.recipe.agent(models, goal)

    @property
    def _names(self) -> list[str]:
        return list(self.models.trained())

    def _windows(self, logs: Trajectories, normaliser: Normaliser, until: str, batch: int, seed: int = 0) -> Segments:
        rest = rest_dims(logs)
        fields = ["states", "steps", *(["actions"] if self.recipe.actions else [])]
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
        )

    def _source(self, logs: Trajectories, normaliser: Normaliser) -> Plans:
        recipe = self.recipe
        windows = self._windows(logs, normaliser, "reward", recipe.batch)
        told = self._windows(logs, normaliser, "random", recipe.batch, seed=1) if recipe.goals else None
        pairs = None
        if self.models.inverse is not None:
            pairs = Pairs(logs, (1, recipe.stride), recipe.batch, relative=(0, 1), seed=2)
        return Plans(windows, told, recipe.goals, pairs)

    def _standardise(self, source: Plans) -> None:
        if source.pairs is not None:
            wide = Pairs(source.pairs.logs, (1, self.recipe.stride), 4096, relative=(0, 1), seed=3)
            from kedge.train import Tick

            self.models.inverse.standardise(wide.next(Tick(0, 0)))

    def _described(self, logs: Trajectories, seed: int, task: str | None) -> dict[str, Any]:
        data = {"digest": logs.digest, "steps": len(logs), "provenance": dict(logs.provenance)}
        return {
            "recipe": type(self.recipe).__name__,
            "fields": asdict(self.recipe),
            "seed": seed,
            "task": task,
            "sizes": self.models.sizes._asdict(),
            "data": data,
        }

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
        save_weights(self.run / MEASURED, tensors)


def check_logs(recipe: Planning, logs: Trajectories) -> None:
    """One line before any long work, where the data does not fit."""
    if not logs.rewarded:
        raise InputError(
            f"{type(recipe).__name__} learns what plans are worth from rewards, and the data carries none; "
            "add a column of rewards"
        )
    if logs.dimensions.observation % 2:
        raise InputError(
            f"{type(recipe).__name__} plans for states of a position and its velocity, so of an even number of "
            f"dimensions; the data has {logs.dimensions.observation}"
        )


def scales(recipe: Planning, logs: Trajectories) -> tuple[Normaliser, Normaliser]:
    """Of states, and of what is denoised. Positions share one scale and velocities another: a maze is not sheared."""
    d = logs.dimensions.observation // 2
    groups = (tuple(range(d)), tuple(range(d, 2 * d)))
    states = Normaliser.fit(logs, recipe.normalise, shared=groups)
    if not recipe.actions:
        return states, states
    actions = Normaliser.fit(logs.actions, recipe.normalise)
    both = Normaliser(torch.cat([states.shift, actions.shift]), torch.cat([states.scale, actions.scale]))
    return states, both


def rest_dims(logs: Trajectories) -> tuple[int, ...]:
    """The velocities: the second half of a state."""
    d = logs.dimensions.observation // 2
    return tuple(range(d, 2 * d))


def rewarded_place(logs: Trajectories) -> Float[np.ndarray, " g"] | None:
    """Where rewards were earned: the mean position of the rewarded steps."""
    d = logs.dimensions.observation // 2
    total, count = np.zeros(d), 0
    for chunk in logs.chunks():
        found = chunk["rewards"] > 0
        total += chunk["observations"][found, :d].sum(0, dtype=float)
        count += int(found.sum())
    return (total / count).astype(np.float64) if count else None
