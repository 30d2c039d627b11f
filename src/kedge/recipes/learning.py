"""A recipe of a policy at work on data: what it measures, what it leaves in its folder, how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from kedge.data import Normaliser, Trajectories
from kedge.errors import InputError
from kedge.nets import Octaves
from kedge.recipes.networks import Sizes
from kedge.recipes.training import MEASURED, described, home, places, rest_dims
from kedge.train import Part, Source, Trainer, save_weights

if TYPE_CHECKING:
    from kedge.recipes.acting import Acting


class Sight(nn.Module):
    """What networks hear of a state: it to their scale, and the sines and cosines of its position where that is wanted.

    normaliser: of states
    octaves:    periods of the position's sines; 0 for none
    """

    def __init__(self, normaliser: Normaliser, octaves: int) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.octaves = Octaves(count=octaves) if octaves else None
        self.width = len(normaliser.shift) + (self.octaves.extra if self.octaves else 0)
        """Numbers that are heard."""

    def forward(self, state: Tensor) -> Tensor:
        """`[..., S]` to `[..., width]`."""
        heard = self.normaliser(state.to(self.normaliser.shift))
        return heard if self.octaves is None else self.octaves(heard)


@runtime_checkable
class Measurement(Protocol):
    """What a recipe has measured of the data, and acts by."""

    def tensors(self) -> dict[str, Tensor]:
        """For a run's folder."""
        ...

    def to(self, device: torch.device | str | None) -> None:
        """Moves it, in place."""
        ...


@runtime_checkable
class PolicyRecipe(Protocol):
    """What a recipe says of itself whose policy is the part "actor"."""

    @property
    def steps(self) -> int:
        """Training steps."""
        ...

    def check(self, logs: Trajectories) -> None:
        """One line before any long work, where the data does not fit."""
        ...

    def measure(self, logs: Trajectories) -> Any:
        """What is `Measurement` of the data."""
        ...

    def kept(self, tensors: Mapping[str, Tensor]) -> Any:
        """The same from a run's folder."""
        ...

    def modules(self, sizes: Sizes, measured: Any) -> dict[str, nn.Module]:
        """Fresh networks by the names of their parts; their weights follow from torch's generator."""
        ...

    def work(
        self, logs: Trajectories, modules: dict[str, Any], measured: Any, device: torch.device | None
    ) -> tuple[list[Part], Source]:
        """What the trainer steps, and on what."""
        ...

    def agent(self, actor: Any, measured: Any) -> Any:
        """What acts."""
        ...


class Measured(NamedTuple):
    """What was measured of the data: `sight` of its states, and the largest entry of an action."""

    sight: Sight
    limit: float

    @classmethod
    def of(cls, recipe: Acting, logs: Trajectories) -> Measured:
        """From data. Positions share one scale and velocities another, where a state is made of both."""
        S = logs.dimensions.observation
        groups = (places(logs), rest_dims(logs)) if S % 2 == 0 else ()
        most = max(float(abs(chunk["actions"]).max()) for chunk in logs.chunks())
        return cls(Sight(Normaliser.fit(logs, shared=groups), recipe.octaves), max(most, 1e-6))

    @classmethod
    def kept(cls, recipe: Acting, tensors: Mapping[str, Tensor]) -> Measured:
        """From a run's folder."""
        normaliser = Normaliser(tensors["scale.shift"], tensors["scale.scale"])
        return cls(Sight(normaliser, recipe.octaves), float(tensors["limit"]))

    def tensors(self) -> dict[str, Tensor]:
        """For a run's folder."""
        scale = {f"scale.{name}": value for name, value in self.sight.normaliser.state_dict().items()}
        return scale | {"limit": torch.tensor(self.limit, dtype=torch.float64)}

    def to(self, device: torch.device | str | None) -> None:
        """Moves it, in place."""
        self.sight.to(device)


class Learning:
    """One recipe on one data set with one seed."""

    def __init__(
        self,
        recipe: PolicyRecipe,
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
        """As `kedge.recipes.training.Training`."""
        recipe.check(logs)
        self.recipe, self.run = recipe, None if run is None else Path(run)
        self.sizes = Sizes(logs.dimensions.observation, logs.dimensions.action)
        self.measured: Measurement = recipe.measure(logs)
        with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU, wherever they go
            torch.default_generator.manual_seed(seed)
            self.modules = recipe.modules(self.sizes, self.measured)
            parts, source = recipe.work(logs, self.modules, self.measured, home(logs, device, resident))
        self.measured.to(device)
        self.trainer = Trainer(
            parts,
            source,
            recipe.steps,
            self.run,
            seed=seed,
            recipe=described(recipe, self.sizes, logs, seed, task),
            device=device,
            precision=precision,
            compile=compile,
            shard=shard,
            progress=progress,
        )
        if self.run is not None:
            self.trainer.resume()  # the folder is ours, or this raises
            if self.trainer.crew.first:
                save_weights(self.run / MEASURED, self.measured.tensors())

    def agent(self) -> Any:
        """What acts, with the weights as they are now: a copy, where the training ran."""
        if self.trainer.sharding is not None:
            raise InputError("no process of a sharded training has all weights: kedge.load(run) makes the agent of it")
        (actor,) = [updater.part.weights() for updater in self.trainer.updaters if updater.name == "actor"]
        copied = deepcopy(actor).eval().requires_grad_(False)
        return self.recipe.agent(copied, self.measured)


class LearnsPolicy:
    """What recipes of policies share: how they are trained, and how they are loaded."""

    def train(
        self,
        logs: Trajectories,
        run: Path | str | None = None,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        compile: bool | str = False,  # noqa: A002  torch's own word
        progress: bool | None = None,
        task: str | None = None,
    ) -> Any:
        """Learns from logged behaviour, and returns what acts. The arguments are those of every recipe: see
        `Planning.train`.
        """
        how: dict[str, Any] = {"device": device, "precision": precision, "compile": compile, "progress": progress}
        learning = self.training(logs, run, seed=seed, task=task, **how)
        learning.trainer.train()
        return learning.agent()

    def training(self, logs: Trajectories, run: Path | str | None, **how: Any) -> Learning:
        """This recipe at work on data."""
        return Learning(cast(PolicyRecipe, self), logs, run, **how)

    def restored(
        self, told: Mapping[str, Any], measured: Mapping[str, Tensor], weights: Mapping[str, Tensor], device: Any = None
    ) -> Any:
        """The agent of a run's folder: its policy is all that acts."""
        recipe = cast(PolicyRecipe, self)
        found: Measurement = recipe.kept(measured)
        with torch.random.fork_rng(devices=[]):
            modules = recipe.modules(Sizes(**told["sizes"]), found)
        actor = modules["actor"]
        prefix = "actor." if len(modules) > 1 else ""
        mine = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        actor.load_state_dict(mine)
        if device is not None:
            actor.to(device)
            found.to(device)
        return recipe.agent(actor.eval().requires_grad_(False), found)
