"""The planner: trajectories by denoising."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kedge.data import Normaliser
from kedge.denoise import Estimator
from kedge.guide import Guide
from kedge.noise import Noise
from kedge.plan.proposer import Frames
from kedge.walk import Walk
from kedge.walk.grids.levels import Grid
from kedge.walk.hooks import Pin
from kedge.walk.state import Hook, Solver, State, Step


@dataclass(frozen=True, eq=False)
class Planner:
    """Denoises whole trajectories, with the first state held to where we are and the last to the goal, if there is one.

    denoiser:    of normalised trajectories `[B, H, S]`, or `[B, H, S + A]` where actions are planned as well
    normaliser:  of states, or of states and actions
    horizon:     H
    stride:      steps from one point to the next
    solver, grid: of the walk
    dim:         S
    temperature: of the noise that a walk begins with
    at_once:     trajectories in one call of the network: what the processor's caches hold
    guides:      what pulls the denoiser, innermost first; each sees trajectories as the network does
    """

    denoiser: Any
    normaliser: Normaliser
    horizon: int
    stride: int
    solver: Solver
    grid: Grid
    dim: int
    temperature: float = 1.0
    at_once: int = 256
    guides: Sequence[Guide] = ()
    hooks: Sequence[Hook] = ()

    @property
    def guided(self) -> Estimator:
        """The denoiser with all that pulls it."""
        denoiser = self.denoiser
        for guide in self.guides:
            denoiser = guide.on(denoiser)
        return denoiser

    @torch.no_grad()
    def propose(
        self,
        states: Float[Tensor, "b s"],
        seeds: Int64[Tensor, "b n"],
        goal: Float[Tensor, "b g"] | None = None,
        frames: Frames | None = None,
    ) -> Float[Tensor, "b n h s"]:
        """See `Proposer`."""
        b, n = seeds.shape
        device = self.normaliser.shift.device
        mask, values = self._known(states.to(device), goal)
        values = values.repeat_interleave(n, 0)
        flat = seeds.to(device).flatten()
        parts = []
        shots: list[list[tuple[float, Tensor]]] = []
        for some in torch.arange(b * n, device=device).split(self.at_once):
            watch = [Watch()] if frames is not None else []
            walk = Walk(self.guided, self.solver, self.grid, [*self.hooks, Pin(mask, values[some]), *watch])
            parts.append(walk.run(self._start(flat[some], walk), seeds=flat[some]).x)
            shots += [shot.seen for shot in watch]
        if frames is not None:
            for level in zip(*shots, strict=True):
                scale = level[0][0]
                frames.append((scale, self._raw(torch.cat([estimate for _, estimate in level]), b, n)))
        return self._raw(torch.cat(parts), b, n)

    def _start(self, seeds: Int64[Tensor, " k"], walk: Walk) -> Tensor:
        """Noise at the grid's first level: the spread there is that of noise and of (unit) data together."""
        path = walk.path
        shape = (len(seeds), self.horizon, len(self.normaliser.shift))
        z = path.prior(shape, Noise.of(seeds, len(seeds), seeds.device), device=seeds.device)
        return self.temperature * z

    def _known(
        self, states: Float[Tensor, "b s"], goal: Float[Tensor, "b g"] | None
    ) -> tuple[Bool[Tensor, "h d"], Float[Tensor, "b h d"]]:
        """Which entries are known, and what they are, as the network sees them.

        At the goal we are at rest: what the goal leaves open of the last state is zero.
        """
        d = len(self.normaliser.shift)
        mask = torch.zeros(self.horizon, d, dtype=torch.bool, device=states.device)
        raw = torch.zeros(len(states), self.horizon, d, device=states.device)
        mask[0, : self.dim] = True
        raw[:, 0, : self.dim] = states
        if goal is not None:
            mask[-1, : self.dim] = True
            raw[:, -1, : goal.shape[1]] = goal.to(raw)
        return mask, self.normaliser(raw)

    def _raw(self, x: Float[Tensor, "k h d"], b: int, n: int) -> Float[Tensor, "b n h s"]:
        return self.normaliser.undo(x)[..., : self.dim].unflatten(0, (b, n))


@dataclass
class Watch(Hook):
    """Keeps the estimate behind every step and the noise scale that it was made at."""

    seen: list[tuple[float, Tensor]] = field(default_factory=list)
    place: Any = "record"

    def before(self, state: State, s: object) -> State:
        """Notes the level."""
        self.level = float(state.walk.path.noise_scale(state.t))
        return state

    def after(self, state: State, step: Step) -> State:
        """Keeps the estimate."""
        if step.estimate is not None and isinstance(step.estimate.x, Tensor):
            self.seen.append((self.level, step.estimate.x))
        return state
