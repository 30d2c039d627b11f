"""What is exported: a module for each graph, which says what goes in and what comes out, in the units of the data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from kedge.cond import Cond
from kedge.denoise import Denoiser
from kedge.distill import QuantisedLayer
from kedge.errors import InputError
from kedge.noise import Given, Heard, Noise
from kedge.plan import Agent, Planner
from kedge.policy import ChunkPolicy
from kedge.policy.chunks import FIELD
from kedge.walk import Walk
from kedge.walk.walk import planned

DATA = "the data's own"
SCALED = "as the network sees them: (data - shift) / scale along the last axis"


@dataclass(frozen=True)
class Port:
    """One input or output: its shape after the batch, and what it is."""

    name: str
    entries: tuple[int, ...]
    what: str
    units: str = DATA
    dtype: torch.dtype = torch.float32

    def json(self) -> dict[str, Any]:
        """As it stands beside a graph."""
        shape = ["batch", *self.entries]
        return {"name": self.name, "shape": shape, "type": str(self.dtype)[6:], "units": self.units, "what": self.what}


class Graph(nn.Module):
    """A function of tensors that lead with the batch: nothing random, nothing of a run's folder in it."""

    kind: str
    inputs: tuple[Port, ...]
    output: Port

    @abstractmethod
    def example(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs that are like what will come."""

    @abstractmethod
    def truth(self, *inputs: Tensor, seeds: Tensor) -> Tensor:
        """What the agent itself makes of the inputs, by its usual way; noise is drawn from the seeds."""

    @abstractmethod
    def scale(self) -> Tensor:
        """What a difference in the output is measured by, along its last axis."""

    @abstractmethod
    def words(self) -> dict[str, Any]:
        """What else a user has to know."""


class WholeWalk(Graph):
    """A walk from noise to what it makes. Noise is an input: some normals for each entry, the first of which is where
    the walk begins; the others are those of its random steps.
    """

    walked: Walk
    entries: tuple[int, ...]

    @cached_property
    def asked(self) -> list[tuple[int, int]]:
        """The `(step, slot)` of each draw: a walk tells."""
        heard = Heard.of(0, 1)
        assert isinstance(heard, Heard)
        with torch.no_grad():
            self.run(heard, *self._quiet(1))
        return list(heard.asked)

    def normals(self, seeds: Tensor) -> Tensor:
        """The noise `[B, draws, ...]` that the agent itself would draw from these seeds."""
        noise = Noise.of(seeds, len(seeds), seeds.device)
        shape = len(seeds), *self.entries
        return torch.stack([noise.normal(shape, step, slot, torch.float32) for step, slot in self.asked], 1)

    @abstractmethod
    def run(self, noise: Noise, *told: Any) -> Tensor:
        """What comes of this noise."""

    @abstractmethod
    def _quiet(self, batch: int) -> tuple[Tensor, ...]:
        """Any inputs but noise."""

    def noise_port(self) -> Port:
        """The first input."""
        what = "standard normals; the first draw is where the walk begins, further ones are those of its random steps"
        return Port("noise", (len(self.asked), *self.entries), what, "none")

    def words(self) -> dict[str, Any]:
        """How it is walked, and which of kedge's own numbers the agent takes for noise."""
        levels = [float(level) for level in planned(self.walked.path, self.walked.grid, self.walked.solver).rows]
        path = self.walked.path
        return {
            "solver": str(self.walked.solver),
            "path": str(path),
            "levels": levels,
            "noise_scales": [float(path.noise_scale(level)) for level in levels],
            "draws": [{"step": step, "slot": slot} for step, slot in self.asked],
        }


class Plans(WholeWalk):
    """Plans from where we are, to a goal where one is told. See `kedge.plan.Planner`."""

    kind = "plan"

    def __init__(self, planner: Planner) -> None:
        super().__init__()
        if planner.guides:
            raise InputError(
                f"the planner is guided by {type(planner.guides[0]).__name__}, which differentiates on the way, and no "
                "exported graph can: export its denoiser alone (--what denoiser)"
            )
        self.planner, self.places = planner, planner.dim // 2
        self.denoiser, self.normaliser = planner.denoiser, planner.normaliser
        self.entries = (planner.horizon, len(planner.normaliser.shift))
        mask, values = planner.known(torch.zeros(1, planner.dim), None)
        self.walked = planner.walk(mask, values)
        state = Port("state", (planner.dim,), "where we are: the first state of every plan")
        told = (
            Port("goal", (self.places,), "where to be, at rest, at the end"),
            Port("aimed", (), "whether to plan to the goal; where not, the goal is ignored", "none", torch.bool),
        )
        self.inputs = (self.noise_port(), state, *(told if planner.heeds else ()))
        what = f"plans; neighbouring points lie {planner.stride} steps apart"
        self.output = Port("plans", (planner.horizon, planner.dim), what)

    def forward(self, noise: Tensor, state: Tensor, goal: Tensor | None = None, aimed: Tensor | None = None) -> Tensor:
        """`[B, H, S]`."""
        return self.run(Given.drawn(noise), state, goal, aimed)

    def run(self, noise: Noise, *told: Any) -> Tensor:
        """From a state, to a goal where one is given and aimed at."""
        state, *aim = told
        goal, aimed = aim or (None, None)
        mask, values = self.planner.known(state, goal)
        if aimed is not None:  # the last row counts for those alone that are told a goal
            last = torch.arange(self.planner.horizon, device=mask.device) == self.planner.horizon - 1
            mask = mask & (aimed[:, None] | ~last)[..., None]
        walk = self.planner.walk(mask, values)
        x = walk.run(self.planner.start(walk, noise, state.shape[0]), seeds=noise).x
        return self.normaliser.undo(cast(Tensor, x))[..., : self.planner.dim]

    def example(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """States and goals as spread as the data; every second one is told its goal."""
        noise, d = Noise.of(seed, batch), self.planner.dim
        z = 0.5 * noise.normal((batch, 2, d), 0, dtype=torch.float32)
        state, goal = (z * self.scale() + self.normaliser.shift[:d]).unbind(1)
        told = (goal[:, : self.places], torch.arange(batch) % 2 == 0) if self.planner.heeds else ()
        return self.normals(torch.arange(batch) + seed), state, *told

    def truth(self, *inputs: Tensor, seeds: Tensor) -> Tensor:
        """By `propose`: those with a goal and those without apart."""
        state, *told = inputs[1:]
        plain = self.planner.propose(state, seeds[:, None])[:, 0]
        if not told:
            return plain
        goal, aimed = told
        return torch.where(aimed[:, None, None], self.planner.propose(state, seeds[:, None], goal)[:, 0], plain)

    def scale(self) -> Tensor:
        """Of states."""
        return self.normaliser.scale[: self.planner.dim]

    def words(self) -> dict[str, Any]:
        """See `Graph`."""
        return super().words() | {"stride": self.planner.stride, "temperature": self.planner.temperature}

    def _quiet(self, batch: int) -> tuple[Tensor, ...]:
        return (torch.zeros(batch, self.planner.dim),)


class Actions(WholeWalk):
    """Actions for what is seen. See `kedge.policy.ChunkPolicy`."""

    kind = "act"

    def __init__(self, policy: ChunkPolicy) -> None:
        super().__init__()
        self.policy, self.denoiser = policy, policy.walk.denoiser
        self.observations, self.actions = policy.observations, policy.actions
        self.entries, self.walked = tuple(policy.shape), policy.walk
        seen = Port("observation", (len(policy.observations.shift),), "what is seen")
        self.inputs = (self.noise_port(), seen)
        self.output = Port("actions", (policy.steps, policy.shape[1]), "what to do, one action a step")

    def forward(self, noise: Tensor, observation: Tensor) -> Tensor:
        """`[B, steps, A]`."""
        return self.run(Given.drawn(noise), observation)

    def run(self, noise: Noise, *told: Any) -> Tensor:
        """For an observation."""
        policy, (observation,) = self.policy, told
        start = policy.start(noise, observation.shape[0])
        return policy.done(cast(Tensor, policy.walk.run(start, policy.tell(observation), seeds=noise).x))

    def example(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Observations as spread as the data."""
        z = Noise.of(seed, batch).normal((batch, len(self.observations.shift)), 0, dtype=torch.float32)
        return self.normals(torch.arange(batch) + seed), self.observations.undo(0.5 * z)

    def truth(self, *inputs: Tensor, seeds: Tensor) -> Tensor:
        """By `draw`."""
        return torch.from_numpy(self.policy.draw(inputs[1].numpy(), seeds))

    def scale(self) -> Tensor:
        """Of actions."""
        return self.actions.scale

    def _quiet(self, batch: int) -> tuple[Tensor, ...]:
        return (self.observations.undo(torch.zeros(batch, len(self.observations.shift))),)


class Estimates(Graph):
    """The denoiser alone, for walks of one's own: the expected clean x of a noised one, both as the network sees them,
    since there noise is alike in all directions.
    """

    kind = "denoiser"

    def __init__(self, denoiser: Denoiser, entries: Sequence[int], normaliser: Any, observations: Any = None) -> None:
        super().__init__()
        self.denoiser, self.normaliser, self.observations = denoiser, normaliser, observations
        self.path, self.entries = denoiser.path, tuple(entries)
        x = Port("x_t", self.entries, "noised: x_t = alpha(t) x + sigma(t) z", SCALED)
        t = Port("t", (), "the level: a time of the path", "none")
        seen = () if observations is None else (Port(FIELD, (len(observations.shift),), "what is seen"),)
        self.inputs = (x, t, *seen)
        self.output = Port("x", self.entries, "the expected clean x", SCALED)

    def forward(self, x_t: Tensor, t: Tensor, observation: Tensor | None = None) -> Tensor:
        """Of x_t's shape."""
        cond = None if observation is None else Cond.of(**{FIELD: self.observations(observation)})
        with torch.no_grad():
            return cast(Tensor, self.denoiser.estimate(x_t, t, self.denoiser.prepare(cond)).x)

    def example(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Standard data at levels from one end of the path to the other."""
        noise = Noise.of(seed, batch)
        x, z = noise.normal((batch, 2, *self.entries), 0, dtype=torch.float32).unbind(1)
        ends = [float(torch.as_tensor(self.path.noise_scale(t)).log()) for t in (self.path.t_min, self.path.t_max)]
        scales = torch.linspace(ends[0], min(ends[1], 4.0), batch, dtype=torch.float64).exp()
        t = torch.tensor([float(self.path.time_at(float(scale))) for scale in scales], dtype=torch.float32)
        x_t = self.path.perturb(x, t.double(), z).float()
        if self.observations is None:
            return x_t, t
        return x_t, t, self.observations.undo(x.flatten(1)[:, :1] * torch.ones_like(self.observations.shift))

    def truth(self, *inputs: Tensor, seeds: Tensor) -> Tensor:
        """Itself: it is what the agent asks."""
        with torch.no_grad():
            return self(*inputs)

    def scale(self) -> Tensor:
        """1, for all is at one scale."""
        return torch.ones(())

    def words(self) -> dict[str, Any]:
        """See `Graph`."""
        scale = {"shift": self.normaliser.shift.tolist(), "scale": self.normaliser.scale.tolist()}
        path = {"path": str(self.path), "t_min": self.path.t_min, "t_max": self.path.t_max}
        return path | {"pinned": self.denoiser.pinned, "normaliser": scale}


def _modules(owner: object) -> Iterable[nn.Module]:
    """Of the network that denoises, if one does."""
    denoiser = getattr(owner.walk if isinstance(owner, ChunkPolicy) else owner, "denoiser", None)
    return denoiser.modules() if isinstance(denoiser, nn.Module) else ()


def graph_of(agent: Agent | ChunkPolicy, alone: bool = False) -> Graph:
    """The whole walk of an agent's plans or a policy's actions; or the denoiser alone."""
    owner = agent.proposer if isinstance(agent, Agent) else agent
    if any(isinstance(part, QuantisedLayer) for part in _modules(owner)):
        raise InputError(
            f"{agent.name} is quantised, and codes have no graph yet: export the run that it was made from"
        )
    if isinstance(owner, Planner) and isinstance(owner.denoiser, Denoiser):
        if alone:
            entries = owner.horizon, len(owner.normaliser.shift)
            return Estimates(owner.denoiser, entries, owner.normaliser).eval()
        return Plans(owner).eval()
    if isinstance(owner, ChunkPolicy) and isinstance(owner.walk.denoiser, Denoiser):
        if alone:
            return Estimates(owner.walk.denoiser, owner.shape, owner.actions, owner.observations).eval()
        return Actions(owner).eval()
    raise InputError(f"{agent.name} does not denoise by a network of its own: there is nothing to export")
