"""Action diffusion: what is seen is the condition, the next few actions are the sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kedge.cond import Cond
from kedge.data import Normaliser, Segments, Trajectories
from kedge.errors import InputError
from kedge.noise import Noise
from kedge.rl.replay import World
from kedge.tree import blocks
from kedge.walk import Walk

if TYPE_CHECKING:  # the mazes' physics come with it, and are not for everyone who acts
    from kedge.envs.task import Planned

FIELD = "observation"
"""The field of the condition that holds what is seen."""


class ActionChunks:
    """A source of batches for a denoiser of actions: `x [B, Ta, A]`, what was done at a step of the logs and after it,
    and `observation [B, S]`, what was seen before. Past the end of an episode nothing was done: zeros.

    Trained on by `kedge.fit.DenoisingLoss`, this is behaviour cloning: Chi et al., "Diffusion policy: visuomotor policy
    learning via action diffusion", RSS 2023.

    Args:
        logs: what was seen and done.
        length: Ta.
        batch_size: B.
        observations: to the scale of the network, and `actions` likewise; these are what the policy must be given.
        seed: of the order.
        device: where the data is kept, if it is to be kept there.
    """

    def __init__(
        self,
        logs: Trajectories,
        length: int,
        batch_size: int,
        observations: Normaliser,
        actions: Normaliser,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        fields = ("states", "actions")
        self.segments = Segments(
            logs, length, 1, batch_size, normaliser=observations, fields=fields, seed=seed, device=device
        )
        self.actions = actions

    def next(self, tick: Any) -> dict[str, Tensor]:
        """The batch of a tick."""
        found = self.segments.next(tick)
        with torch.no_grad():
            return {"x": self.actions(found["actions"]), FIELD: found["states"][:, 0]}

    def state(self) -> dict[str, Any]:
        """What it belongs to."""
        return self.segments.state()

    def load(self, state: dict[str, Any]) -> None:
        """Makes sure that the saved run drew the same."""
        self.segments.load(state)


@dataclass(frozen=True, eq=False)
class ChunkPolicy:
    """Draws a chunk of actions for what is seen, does the first of them, and draws again.

    walk:         of chunks, conditioned on the field "observation"
    shape:        (Ta, A), of a chunk
    observations: to the scale of the network
    actions:      likewise; chunks are brought back by it
    execute:      how many actions of a chunk are done; None: all
    limit:        actions are held within `-limit` and `limit` where they are done; None: as they come
    name:         what a table calls it
    begin:        `begin(state [B, S], noise) -> [B, Ta A]`, the noise that a walk begins with, for what is seen; None:
                  noise that nobody picks
    width:        chunks in every walk, the last one filled up (see `steady`); None: all at once
    view:         what it makes of what is seen before that is scaled, such as its surroundings on a map; None: nothing
    given:        what the walk is told beside what is seen, of one sample: the same for all chunks
    """

    walk: Walk
    shape: tuple[int, ...]
    observations: Normaliser
    actions: Normaliser
    execute: int | None = None
    limit: float | None = 1.0
    name: str = "policy"
    begin: Callable[[Tensor, Noise], Tensor] | None = None
    width: int | None = None
    view: Callable[[Tensor], Tensor] | None = None
    given: Cond | None = None

    def __post_init__(self) -> None:
        if len(self.shape) != 2 or not 1 <= self.steps <= self.shape[0]:
            raise InputError(f"ChunkPolicy: of a chunk of shape {self.shape} between 1 and all actions are done")

    @property
    def steps(self) -> int:
        """Actions from one chunk to the next."""
        return self.shape[0] if self.execute is None else self.execute

    @property
    def label(self) -> str:
        """What an evaluation calls it."""
        return self.name

    @property
    def observed(self) -> int:
        """Numbers of an observation."""
        return len(self.observations.shift)

    def tell(self, observations: Float[np.ndarray, "n state"] | Float[Tensor, "n state"]) -> Cond:
        """What is seen, as a condition."""
        shift = self.observations.shift
        seen = torch.as_tensor(observations, dtype=shift.dtype, device=shift.device)
        seen = seen if self.view is None else self.view(seen)
        with torch.no_grad():
            heard = {FIELD: self.observations(seen)}
        return Cond.of(**heard) if self.given is None else self.given.repeated(len(seen), shift).told(**heard)

    def done(self, chunk: Tensor) -> Tensor:
        """The actions of each chunk that are done, in the data's own units."""
        with torch.no_grad():
            done = self.actions.undo(chunk[:, : self.steps])
        return done if self.limit is None else done.clamp(-self.limit, self.limit)

    def act(self, chunk: Tensor) -> Float[np.ndarray, "n steps act"]:
        """The same for those who act."""
        return self.done(chunk).cpu().double().numpy()

    @staticmethod
    def state(cond: Cond) -> Tensor:
        """What is seen, to the scale of the network: what a critic of states hears."""
        return cond.fields[FIELD]

    def draw(self, observations: Float[np.ndarray, "n state"], seeds: Any) -> Float[np.ndarray, "n steps act"]:
        """Actions for what is seen. `seeds` as a walk takes them."""
        n = len(observations)
        noise = Noise.of(seeds, n, self.actions.shift.device)
        if self.width is None or not n:
            return self._drawn(observations, noise)
        parts = [
            self._drawn(observations[some.numpy()], noise.take(some.to(noise.key.device), fork=False))[:meant]
            for some, meant in blocks(n, self.width)
        ]
        return np.concatenate(parts)

    def _drawn(self, observations: Float[np.ndarray, "n state"], noise: Noise) -> Float[np.ndarray, "n steps act"]:
        """In one walk."""
        seen = self.tell(observations)
        chunk = self.walk.run(self.start(noise, len(observations), seen), seen, seeds=noise).x
        assert isinstance(chunk, Tensor)
        return self.act(chunk)

    def start(self, noise: Noise, count: int, seen: Cond | None = None) -> Tensor:
        """Where `count` walks begin: at noise, which may be picked for what is seen."""
        path, shift, shape = self.walk.path, self.actions.shift, (count, *self.shape)
        sigma = torch.as_tensor(path.sigma(self.walk.grid.levels(path).t[0]))
        first = sigma.to(shift) if sigma.ndim else sigma.to(shift.dtype)  # a number goes with any device as it is
        if self.begin is None or seen is None:
            return first * noise.normal(shape, -1, dtype=shift.dtype)
        with torch.no_grad():
            return first * self.begin(self.state(seen), noise).view(shape)

    def controller(self) -> ChunkController:
        """What acts in many episodes at once."""
        return ChunkController(self)

    def on(self, walk: Walk, begin: Callable[[Tensor, Noise], Tensor] | None = None) -> ChunkPolicy:
        """The same policy on another walk: fine-tuned, say, or with fewer steps; or from noise that is picked."""
        return replace(self, walk=walk, begin=begin)

    def steady(self, width: int = 32) -> ChunkPolicy:
        """The same policy, whose every walk is of so many chunks: an episode's actions do not depend, to the last bit,
        on who else is acted for.
        """
        return replace(self, width=width)


class ChunkController:
    """A policy in many episodes at once. An episode's chunks follow from its seed and what happened in it."""

    def __init__(self, policy: ChunkPolicy) -> None:
        self.policy = policy
        self.plans: list[Planned] = []
        self.step = 0

    def reset(self, seeds: Sequence[int]) -> None:
        """Begins an episode for each seed."""
        self.noise = Noise.of(torch.as_tensor(np.asarray(seeds, dtype=np.int64)), len(seeds))
        self.step, self.plans = 0, []
        self._chunks = np.zeros((len(seeds), self.policy.steps, self.policy.shape[1]))

    @property
    def due(self) -> bool:
        """Whether it asks the network when it acts next."""
        return self.step % self.policy.steps == 0

    def act(
        self, observations: Float[np.ndarray, "n state"], active: Bool[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n act"]:
        """Draws chunks for all that are still active if it is time to, and goes on with them."""
        return self.together([self], [observations], [active])[0]

    @staticmethod
    def together(
        controllers: Sequence[ChunkController], observations: Sequence[np.ndarray], active: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """What each does, whatever its step: those that draw do so in one call of their policy, which is the same."""
        due = [each for each in zip(controllers, observations, active, strict=True) if each[0].due]
        if due:
            who = [np.flatnonzero(acting) for _, _, acting in due]
            seeds = [each._seeds()[torch.from_numpy(some)] for (each, _, _), some in zip(due, who, strict=True)]
            policy = controllers[0].policy
            chunks = np.zeros((sum(map(len, who)), policy.steps, policy.shape[1]))
            if len(chunks):
                seen = np.concatenate([there[some] for (_, there, _), some in zip(due, who, strict=True)])
                chunks = policy.draw(seen, torch.cat(seeds))
            ends = np.cumsum([len(some) for some in who])[:-1]
            for (each, *_), some, drawn in zip(due, who, np.split(chunks, ends), strict=True):
                each._chunks = np.zeros_like(each._chunks)
                each._chunks[some] = drawn
        return [each._next() for each in controllers]

    def copied(self) -> ChunkController:
        """One that goes on from here by itself, and leaves this one as it is."""
        made = copy(self)  # a chunk is never changed, another one takes its place
        made.plans = list(self.plans)
        return made

    def _seeds(self) -> Int64[Tensor, " n"]:
        """Of the chunk that is due, one for each episode."""
        return self.noise.seeds(self.step // self.policy.steps)

    def _next(self) -> Float[np.ndarray, "n act"]:
        """The next action of each chunk."""
        place = self.step % self.policy.steps
        self.step += 1
        return self._chunks[:, place]


class Chunked:
    """An environment whose actions are whole chunks, flat and to the scale of the network that a policy has; so is what
    is seen. A step is as many of the environment's own as the policy does of a chunk. A `kedge.rl.World`.

    inner:  whose copies they are
    policy: whose scales they are
    once:   nothing is earned in a chunk after its first reward above 0
    """

    def __init__(self, inner: World, policy: ChunkPolicy, *, once: bool = False) -> None:
        self.inner, self.policy, self.once = inner, policy, once

    @property
    def count(self) -> int:
        """How many copies."""
        return self.inner.count

    def reset(self, seeds: Sequence[int]) -> Float[np.ndarray, "n state"]:
        """Begins an episode in each copy."""
        return self._seen(self.inner.reset(seeds))

    def step(
        self, actions: Float[np.ndarray, "n chunk"]
    ) -> tuple[Float[np.ndarray, "n state"], Float[np.ndarray, " n"]]:
        """Does a chunk in every copy: what is seen after it, and what its actions earned together."""
        chunks = torch.as_tensor(actions).to(self.policy.actions.shift).unflatten(1, self.policy.shape)
        total, observations = np.zeros(len(actions)), np.zeros(0)
        for action in self.policy.act(chunks).swapaxes(0, 1):
            observations, earned = self.inner.step(action)
            total += np.where(self.once & (total > 0), 0.0, earned)
        return self._seen(observations), total

    def _seen(self, observations: Float[np.ndarray, "n state"]) -> Float[np.ndarray, "n state"]:
        return self.policy.state(self.policy.tell(observations)).cpu().double().numpy()
