"""The planner: trajectories by denoising."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kedge.cond import Cond
from kedge.constrain import Feasible
from kedge.data import Normaliser
from kedge.denoise import Estimator, as_estimator
from kedge.guide import Guide
from kedge.noise import Noise
from kedge.plan.proposer import Frames
from kedge.plan.simulated import Simulated
from kedge.steer import Steering
from kedge.tree import blocks, first_leaf
from kedge.walk import Walk
from kedge.walk.grids.levels import Grid
from kedge.walk.hooks import Pin
from kedge.walk.state import Hook, Solver, State, Step


@dataclass(frozen=True)
class Nearby:
    """Candidates that are looked for near the plan that is being followed: it is noised to the first level of `grid`,
    and denoised from there. What Diffuser calls a warm start (Janner et al., 2022, section 5.3), and what makes
    planning again and again a search: the best of today is where tomorrow's search begins.

    share: of the candidates; the others come from pure noise
    """

    grid: Grid
    share: float = 0.5


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
    at_once:     trajectories in one call of the network, at most: what the processor's caches hold
    width:       trajectories in every call, the last one filled up (see `Agent.steady`); None: as they come
    nearby:      candidates near the last plan, if any are wanted
    guides:      what pulls the denoiser, innermost first; each sees trajectories as the network does
    steering:    what plans are to come to, and how, in the data's own units
    feasible:    what they have to satisfy, in the data's own units
    still:       the numbers of a state that never vary: they are known all along
    heeds:       whether the denoiser knows what to do with a goal: one that was never shown an end does not
    given:       what the denoiser is told beside the states, of one sample: the same for all plans
    simulated:   what estimates are tried in, on the way
    past:        points before the first one that the denoiser sees as well: where it has been
    rest:        the numbers of a state that are zero where it stands, as it did before it began: velocities
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
    width: int | None = None
    nearby: Nearby | None = None
    guides: Sequence[Guide] = ()
    hooks: Sequence[Hook] = ()
    heeds: bool = True
    steering: Steering | None = None
    feasible: Feasible | None = None
    still: Sequence[int] = ()
    given: Cond | None = None
    simulated: Simulated | None = None
    past: int = 0
    rest: Sequence[int] = ()

    @property
    def guided(self) -> Estimator:
        """The denoiser with all that pulls it."""
        denoiser = as_estimator(self.denoiser)
        for guide in self.guides:
            denoiser = guide.measured(self.normaliser.undo).on(denoiser)
        return denoiser

    @torch.no_grad()
    def propose(
        self,
        states: Float[Tensor, "b s"],
        seeds: Int64[Tensor, "b n"],
        goal: Float[Tensor, "b g"] | None = None,
        kept: Float[Tensor, "b h s"] | None = None,
        frames: Frames | None = None,
        before: Float[Tensor, "b past s"] | None = None,
    ) -> Float[Tensor, "b n h s"]:
        """See `Proposer`. `before` is where it has been, a stride apart; by default it stood where it is."""
        n = seeds.shape[1]
        states = states.to(self.normaliser.shift)
        near = 0 if kept is None or self.nearby is None else round(self.nearby.share * n)
        known = self.known(states, goal, before)
        found: list[Tensor] = []
        if near and kept is not None:
            behind = self.normaliser.undo(known[1])[:, : self.past, : self.dim]
            found.append(self._denoised(known, seeds[:, :near], torch.cat([behind, kept.to(states)], 1), None))
        if near < n:
            found.append(self._denoised(known, seeds[:, near:], None, frames))
        return torch.cat(found, 1)

    def _denoised(
        self,
        known: tuple[Bool[Tensor, "t d"], Float[Tensor, "b t d"]],
        seeds: Int64[Tensor, "b n"],
        kept: Float[Tensor, "b t s"] | None,
        frames: Frames | None,
    ) -> Float[Tensor, "b n h s"]:
        """Candidates from noise, or from `kept` and some noise."""
        b, n = seeds.shape
        mask, values = known
        device = values.device
        flat = seeds.to(device).flatten()
        owner = torch.arange(b, device=device).repeat_interleave(n)
        grid = self.grid if kept is None or self.nearby is None else self.nearby.grid
        begun = None if kept is None else self.normaliser(kept)
        parts: list[Tensor] = []
        shots: list[list[tuple[float, Tensor]]] = []
        for some, meant in self._calls(b * n, device):
            watch = [Watch()] if frames is not None else []
            pinned = values[owner[some]]
            walk = self.walk(mask, pinned, grid, watch)
            noise = Noise.of(flat[some], len(some), device)
            start = self.start(walk, noise, len(some), None if begun is None else begun[owner[some]], mask * pinned)
            parts.append(first_leaf(walk.run(start, self.told(len(some)), seeds=noise).x)[:meant])
            shots += [[(level, estimate[:meant]) for level, estimate in shot.seen] for shot in watch]
        if frames is not None:
            for level in zip(*shots, strict=True):
                frames.append((level[0][0], self._raw(torch.cat([estimate for _, estimate in level]), b, n)))
        return self._raw(torch.cat(parts), b, n)

    def _calls(self, count: int, device: torch.device) -> Iterable[tuple[Tensor, int]]:
        """Which trajectories share a call, and how many of them are meant."""
        if self.width is not None:
            return blocks(count, self.width, device)
        return [(some, len(some)) for some in torch.arange(count, device=device).split(self.at_once)]

    def walk(
        self, mask: Tensor, values: Float[Tensor, "k h d"], grid: Grid | None = None, watch: Sequence[Hook] = ()
    ) -> Walk:
        """What makes trajectories of noise: what is under `mask` is held to `values`, as `known` gives them."""
        grid = grid or self.grid
        walk = Walk(
            self.guided, self.solver, grid, [*self.hooks, *self._held(mask, values, grid), Pin(mask, values), *watch]
        )
        if self.steering is None:
            return walk
        return self.steering.way.walk(walk, self.steering.objective, self.normaliser)

    def _held(self, mask: Tensor, values: Float[Tensor, "k h d"], grid: Grid) -> list[Hook]:
        """What projects, on a walk over this grid: constraints from the middle of its steps on."""
        if self.feasible is None and self.simulated is None:
            return []
        path = as_estimator(self.denoiser).path
        scales = [float(path.noise_scale(row)) for row in grid.levels(path).rows()]
        held: list[Hook] = []
        if self.simulated is not None:
            held.append(self.simulated.hook(self.normaliser, mask, values, scales, self.dim))
        if self.feasible is not None:
            held.append(self.feasible.hook(self.normaliser, mask, values, scales[len(scales) // 2]))
        return held

    def start(
        self,
        walk: Walk,
        noise: Noise,
        count: int,
        begun: Float[Tensor, "k h d"] | None = None,
        pinned: Float[Tensor, "k h d"] | None = None,
    ) -> Tensor:
        """Where `count` walks begin: noise, plans noised to the first level of the walk, or where the way of steering
        begins, which may ask what is pinned.
        """
        if begun is None:
            shape = (count, self.past + self.horizon, len(self.normaliser.shift))
            start = self.temperature * walk.path.prior(shape, noise, device=self.normaliser.shift.device)
            if self.steering is None or pinned is None:
                return start
            own = self.normaliser.undo(pinned)
            return self.steering.way.begin(walk, start, own, self.steering.objective, self.normaliser, noise)
        first = walk.grid.levels(walk.path).rows()[0]
        return walk.path.perturb(begun, first, walk.path.noise(begun, noise, -1))

    def told(self, count: int) -> Cond | None:
        """What `count` plans are told beside their states."""
        return None if self.given is None else self.given.repeated(count, self.normaliser.shift)

    def known(
        self,
        states: Float[Tensor, "b s"],
        goal: Float[Tensor, "b g"] | None,
        before: Float[Tensor, "b past s"] | None = None,
    ) -> tuple[Bool[Tensor, "t d"], Float[Tensor, "b t d"]]:
        """Which entries are known, and what they are, as the network sees them.

        At the goal we are at rest: what the goal leaves open of the last state is zero.
        """
        d = len(self.normaliser.shift)
        points, standing = self.past + self.horizon, states.clone()
        standing[:, list(self.rest)] = 0.0
        mask = torch.zeros(points, d, dtype=torch.bool, device=states.device)
        raw = torch.zeros(states.shape[0], points, d, device=states.device)
        mask[: self.past + 1, : self.dim] = True
        raw[:, : self.past, : self.dim] = standing[:, None] if before is None else before.to(raw)
        raw[:, self.past, : self.dim] = states
        for i in self.still:  # a list of indices would be copied from the host
            mask[:, i] = True
            raw[..., i] = states[:, None, i].to(raw)
        if goal is not None:
            mask[-1, : self.dim] = True
            raw[:, -1, : goal.shape[1]] = goal.to(raw)
        return mask, self.normaliser(raw)

    def _raw(self, x: Float[Tensor, "k t d"], b: int, n: int) -> Float[Tensor, "b n h s"]:
        return self.normaliser.undo(x)[:, self.past :, : self.dim].unflatten(0, (b, n))


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
