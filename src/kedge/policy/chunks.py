"""Action diffusion: what is seen is the condition, the next few actions are the sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kedge.cond import Cond
from kedge.data import Normaliser, Segments, Trajectories
from kedge.errors import InputError
from kedge.noise import Noise
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
    """

    walk: Walk
    shape: tuple[int, ...]
    observations: Normaliser
    actions: Normaliser
    execute: int | None = None
    limit: float | None = 1.0
    name: str = "policy"

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

    def tell(self, observations: Float[np.ndarray, "n state"] | Float[Tensor, "n state"]) -> Cond:
        """What is seen, as a condition."""
        shift = self.observations.shift
        seen = torch.as_tensor(observations, dtype=shift.dtype, device=shift.device)
        with torch.no_grad():
            return Cond.of(**{FIELD: self.observations(seen)})

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
        noise = Noise.of(seeds, len(observations), self.actions.shift.device)
        chunk = self.walk.run(self.start(noise, len(observations)), self.tell(observations), seeds=noise).x
        assert isinstance(chunk, Tensor)
        return self.act(chunk)

    def start(self, noise: Noise, count: int) -> Tensor:
        """Where `count` walks begin."""
        path, shift = self.walk.path, self.actions.shift
        first = torch.as_tensor(path.sigma(self.walk.grid.levels(path).t[0])).to(shift)
        return first * noise.normal((count, *self.shape), -1, dtype=shift.dtype)

    def controller(self) -> ChunkController:
        """What acts in many episodes at once."""
        return ChunkController(self)

    def on(self, walk: Walk) -> ChunkPolicy:
        """The same policy on another walk: fine-tuned, say, or with fewer steps."""
        return replace(self, walk=walk)


class ChunkController:
    """A policy in many episodes at once. An episode's chunks follow from its seed and what happened in it."""

    def __init__(self, policy: ChunkPolicy) -> None:
        self.policy = policy
        self.plans: list[Planned] = []

    def reset(self, seeds: Sequence[int]) -> None:
        """Begins an episode for each seed."""
        self.noise = Noise.of(torch.as_tensor(np.asarray(seeds, dtype=np.int64)), len(seeds))
        self.step, self.plans = 0, []

    def act(
        self, observations: Float[np.ndarray, "n state"], active: Bool[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n act"]:
        """Draws chunks for all that are still active if it is time to, and goes on with them."""
        chunk, place = divmod(self.step, self.policy.steps)
        if place == 0:
            who = np.flatnonzero(active)
            seeds = (self.noise.uniform((len(active),), chunk) * 2**53).long()
            self._chunks = np.zeros((len(active), self.policy.steps, self.policy.shape[1]))
            if len(who):
                self._chunks[who] = self.policy.draw(observations[who], seeds[torch.from_numpy(who)])
        self.step += 1
        return self._chunks[:, place]
