"""How samples of a frozen denoiser come to an objective: six ways, one interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from kedge.guide import Toward
from kedge.guide.gradient import Onto, Through
from kedge.noise import Noise
from kedge.steer.objectives import Objective
from kedge.walk import Walk
from kedge.walk.grids import Again, Below
from kedge.walk.grids.again import By


@runtime_checkable
class Scale(Protocol):
    """From the data's own units to those of a denoiser, and back."""

    def __call__(self, x: Any) -> Any:
        """To the denoiser's."""
        ...

    @property
    def undo(self) -> Callable[[Any], Any]:
        """To the data's own."""
        ...


class Own:
    """Where the denoiser sees the data as they are."""

    def __call__(self, x: Any) -> Any:
        """As it is."""
        return x

    def undo(self, x: Any) -> Any:
        """As it is."""
        return x


OWN = Own()


@dataclass(frozen=True, kw_only=True)
class Way:
    """What is done so that samples come to an objective. Nothing is trained. Each moment may change what it is given:
    where we are, what walks, and from where.

    Args:
        weigh: what a unit of xi counts when one of several samples is chosen, beside what else they are worth;
            infinite: the objective alone decides.
    """

    denoises: ClassVar[bool] = False
    """Whether it changes the walk: without one it can do nothing then."""

    weigh: float | int = 1.0

    def here(self, state: Float[Tensor, "b s"]) -> Float[Tensor, "b s"]:
        """Where it is planned from."""
        return state

    def walk(self, walk: Walk, objective: Objective, scale: Scale = OWN) -> Walk:
        """The walk that samples are made by."""
        return walk

    def begin(
        self, walk: Walk, start: Tensor, known: Tensor, objective: Objective, scale: Scale, noise: Noise
    ) -> Tensor:
        """Where that walk begins. `known` is a sample in the data's own units; only its pinned entries are right."""
        return start


@dataclass(frozen=True, kw_only=True)
class RandomSampling(Way):
    """RS: samples as they come."""

    weigh: float | int = 0.0


@dataclass(frozen=True, kw_only=True)
class OutputPerturbation(Way):
    """OP: whoever corrects pushes us; it goes on from there, as it comes.

    Args:
        push: added to the first numbers of the state.
    """

    push: tuple[float | int, ...] = ()
    weigh: float | int = 0.0

    def here(self, state: Float[Tensor, "b s"]) -> Float[Tensor, "b s"]:
        """Where it was pushed to."""
        pushed = state.clone()
        pushed[:, : len(self.push)] += state.new_tensor(self.push)
        return pushed


@dataclass(frozen=True, kw_only=True)
class PostHocRanking(Way):
    """PR: samples as they come, of which the best by xi is chosen."""

    weigh: float | int = torch.inf


@dataclass(frozen=True, kw_only=True)
class BiasedInitialisation(Way):
    """BI: the walk begins lower, at an example of what is wanted and some noise.

    Args:
        scale: how much, as a noise scale (sigma / alpha).
    """

    denoises: ClassVar[bool] = True
    scale: float | int = 1.0

    def walk(self, walk: Walk, objective: Objective, scale: Scale = OWN) -> Walk:
        """From that noise scale on."""
        return replace(walk, grid=Below(walk.grid, self.scale))

    def begin(
        self, walk: Walk, start: Tensor, known: Tensor, objective: Objective, scale: Scale, noise: Noise
    ) -> Tensor:
        """The example, noised. Without one: `known`, noised."""
        example = objective.example(known)
        x = scale(known if example is None else example)
        return walk.path.perturb(x, walk.grid.levels(walk.path).rows()[0], walk.path.noise(x, noise, -1))


@dataclass(frozen=True, kw_only=True)
class GuidedDiffusion(Way):
    """GD: each step follows the score of the model and `-weight grad xi`. Their sum at a level of noise is not the
    score of the noised product `p(x) e^{-weight xi(x)}`; samples go to xi at the cost of the model.

    Args:
        weight: of xi.
        through: where the gradient of xi is taken: see `kedge.guide.Gradient`.
        onto: what it is added to.
        together: how many neighbours of a point come along: see `kedge.guide.Toward`.
        most: how far a point is pulled at most, likewise; None: as far as the gradient says.
    """

    denoises: ClassVar[bool] = True
    weight: float | int = 20.0
    through: Through = "clean"
    onto: Onto = "score"
    together: float | int = 1.5
    most: float | int | None = 1.0

    def walk(self, walk: Walk, objective: Objective, scale: Scale = OWN) -> Walk:
        """With a guided denoiser."""
        pull = Toward(objective, self.weight, self.through, self.onto, self.together, self.most)
        return replace(walk, denoiser=pull.measured(scale.undo).on(walk.denoiser))


@dataclass(frozen=True, kw_only=True)
class StochasticSampling(GuidedDiffusion):
    """SS: guided, and each level is walked `times` times with fresh noise: annealed Markov chain Monte Carlo, whose
    samples come near to the product `p(x) e^{-weight xi(x)}`. See `kedge.grids.Again`.

    Args:
        times: M, how often each level is walked.
        by: what it is noised up from.
    """

    times: int = 4
    by: By = "clean"

    def walk(self, walk: Walk, objective: Objective, scale: Scale = OWN) -> Walk:
        """With a guided denoiser, again and again."""
        return replace(super().walk(walk, objective, scale), grid=Again(walk.grid, self.times, self.by))


WAYS: dict[str, type[Way]] = {
    "random": RandomSampling,
    "push": OutputPerturbation,
    "rank": PostHocRanking,
    "biased": BiasedInitialisation,
    "guided": GuidedDiffusion,
    "stochastic": StochasticSampling,
}
"""All six, by the names that they have where one is chosen: in the playground, and in what was measured."""
