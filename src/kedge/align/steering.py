"""A frozen policy steered by the noise that it begins with: that is the action, and reinforcement learning picks it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from kedge.cond import Cond
from kedge.noise import Noise
from kedge.rl.action_value import ActionCritic, ActionValues
from kedge.rl.replay import Act, World
from kedge.rl.soft_actor_critic import SoftActorCritic
from kedge.slots import ALIAS_SLOT, OPEN_SLOT
from kedge.train import Batch, OptimiserSpec, Part, Tick
from kedge.tree import first_leaf
from kedge.walk import Walk


class Steered:
    """`a = pi_dp(s, w)`: where a deterministic walk from the start `sigma_T w`, conditioned on the state, ends. The
    same start and state give the same action; no gradient is asked of the denoiser, which never changes.

    Args:
        walk: with a deterministic solver, `DDIM()` say.
        shape: of what is walked: an action's entries, or a chunk's `(Ta, A)`. To whoever steers, w and a are flat.
        field: of the `Cond` that holds the state.
    """

    def __init__(self, walk: Walk, shape: int | Sequence[int], field: str = "state") -> None:
        if walk.solver.density != "none":
            raise ValueError(f"Steered: {walk.solver} draws noise on the way, and an action does not follow from w")
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.walk, self.dim, self.field = walk, math.prod(self.shape), field
        self.sigma = float(torch.as_tensor(walk.path.sigma(walk.grid.levels(walk.path).t[0])))

    @torch.no_grad()
    def __call__(self, state: Tensor, w: Tensor) -> Tensor:
        """`[B, A]`."""
        start = self.sigma * w.unflatten(1, self.shape)
        return first_leaf(self.walk.run(start, Cond.of(**{self.field: state}), seeds=0).x).flatten(1)

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        parameters = self.walk.denoiser.parameters() if isinstance(self.walk.denoiser, nn.Module) else ()
        return next((p.device for p in parameters), torch.device("cpu"))

    def by(self, act: Act) -> Act:
        """What is done where another policy picks the noise."""
        return lambda state, noise, step: self(state, act(state, noise, step))

    def act(self, state: Tensor, noise: Noise, step: int) -> Tensor:
        """As the policy was trained: from noise that nobody picks."""
        return self(state, noise.normal((len(state), self.dim), step, OPEN_SLOT, state.dtype))


class FromNoise:
    """An environment whose actions are the noise that a frozen policy begins with: any method for environments learns
    to steer it. (DSRL-SAC is `SoftActorCritic` in this one.)

    It is a `World`, as `inner` is; and a `kedge.envs.Simulator`.
    """

    def __init__(self, inner: World, base: Steered) -> None:
        self.inner, self.base, self._state = inner, base, torch.empty(0)

    @property
    def count(self) -> int:
        """How many copies."""
        return self.inner.count

    def reset(self, seeds: Sequence[int]) -> Float[np.ndarray, "n state"]:
        """Begins an episode in each copy."""
        return self._seen(self.inner.reset(seeds))

    def step(self, actions: Float[np.ndarray, "n act"]) -> tuple[Float[np.ndarray, "n state"], Float[np.ndarray, " n"]]:
        """Moves every copy on, by what the policy does of this noise."""
        done = self.base(self._state, torch.as_tensor(actions).float().to(self._state.device))
        state, reward = self.inner.step(done.double().cpu().numpy())
        return self._seen(state), reward

    def _seen(self, state: Float[np.ndarray, "n state"]) -> Float[np.ndarray, "n state"]:
        self._state = torch.as_tensor(state).float().to(self.base.device)
        return state


class NoiseAliasing(SoftActorCritic):
    """Soft actor-critic over the noise w of a frozen policy, whose transitions hold what was *done*. Many w come to the
    same action; so the rewards are learned where they belong, by a critic of actions `Q_A(s, a)`, and a second one is
    told what the noise is worth:

        Q_A:  y = r + gamma (1 - ended) (min Q_A'(s', pi_dp(s', w')) - alpha log pi(w' | s'))
        Q_W:  E_{w ~ N(0, I)} (Q_W(s, w) - Q_A(s, pi_dp(s, w)))^2
        actor: E[alpha log pi(w | s) - min Q_W(s, w)]

    Wagenmaker et al., "Steering your diffusion policy with latent space reinforcement learning", CoRL 2025 (DSRL-NA).
    Whoever acted, logs and demonstrations too, can be learned from. The frozen policy is asked for actions alone.

    Args:
        actor: picks w, within the limits that it has: 1.5, say, where the policy was trained on `N(0, I)`.
        critic: `Q_A`.
        noise_critic: `Q_W`; of as many critics as `Q_A` has, each of which learns from its own.
        base: the frozen policy.
        repeat: updates of `Q_W` at each step.
    """

    def __init__(
        self,
        actor: nn.Module,
        critic: ActionCritic,
        noise_critic: ActionValues,
        base: Steered,
        *,
        repeat: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(actor, critic, **options)
        self.noise_critic, self.base, self.repeat = noise_critic, base, repeat

    def parts(
        self, actor: OptimiserSpec, critic: OptimiserSpec | None = None, alpha: OptimiserSpec | None = None
    ) -> list[Part]:
        """What the trainer steps: as in soft actor-critic, with `Q_W` before the actor that climbs it."""
        made = super().parts(actor, critic, alpha)
        place = next(i for i, part in enumerate(made) if part.name == "actor")
        told = Part(
            self.noise_critic, self.distil, critic or actor, repeat=self.repeat, shadows=(), name="noise_critic"
        )
        return [*made[:place], told, *made[place:]]

    def distil(self, batch: Batch, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The squared errors of `Q_W` `[B]`, summed over its critics."""
        state = batch["state"]
        shape = len(state), self.base.dim
        w = tick.noise(len(state)).normal(shape, tick.step, ALIAS_SLOT, state.dtype)
        with torch.no_grad():
            there = self.critic(state, self.base(state, w))
        error = ((self.noise_critic(state, w) - there) ** 2).sum(0)
        spread = there.var(1, correction=0).sum().clamp(min=torch.finfo(there.dtype).tiny)
        return error, {"explained": 1 - error.detach().mean() / spread}

    def executed(self, state: Tensor, action: Tensor) -> Tensor:
        """What the frozen policy does of the noise."""
        return self.base(state, action)

    def climbed(self, state: Tensor, action: Tensor) -> Tensor:
        """`Q_W`, which can be differentiated where the policy is a black box."""
        return self.noise_critic(state, action)
