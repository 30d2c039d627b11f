"""A black-box reward made differentiable: a critic learns it, and the denoiser climbs the critic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kedge.align.rewards import Reward, rewarded
from kedge.denoise import Estimate
from kedge.fit import DenoisingLoss, denoising_error
from kedge.train import Batch, OptimiserSpec, Part, Tick
from kedge.tree import first_leaf


class ClimbCritic(nn.Module):
    """`L_denoising - w discount^(noise scale) Q(x_hat)`: the estimate is taken for an action, and moved to where the
    critic says that rewards are; the data's own loss keeps the denoiser one.

    "Powerful and flexible: personalised text-to-image generation via reinforcement learning" (deterministic policy
    gradient on one-step estimates). The critic regresses the rewards of estimates, which may be a black box: no
    gradient of it is asked. Estimates from much noise say little of a sample, hence the discount.

    Args:
        loss: what the denoiser was, and goes on being, trained on.
        critic: `Q(x) -> [B]` for clean x.
        reward: of clean samples.
        weight: w; in units of the loss for a reward of one.
        discount: of the critic's word at a noise scale of one.
    """

    def __init__(
        self, loss: DenoisingLoss, critic: nn.Module, reward: Reward, *, weight: float = 1.0, discount: float = 0.7
    ) -> None:
        super().__init__()
        if not 0 < discount <= 1:
            raise ValueError(f"ClimbCritic: the discount lies in (0, 1], got {discount}")
        self.loss, self.critic, self.reward = loss, critic, reward
        self.weight, self.discount = weight, discount

    def parts(self, optimiser: OptimiserSpec, critic: OptimiserSpec, **options: Any) -> list[Part]:
        """The denoiser and the critic, both of which the trainer steps. Options are those of the denoiser's part."""
        return [
            Part(self.loss, self.climb, optimiser, name="denoiser", **options),
            Part(self.critic, self.regress, critic, name="critic", shadows=()),
        ]

    def climb(self, batch: Batch, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The denoiser's loss of each sample `[B]`."""
        own, info = self.loss(batch, tick)
        estimate, t = self._estimate(batch, tick)
        value = self.critic(estimate.x).reshape(len(own))
        counts = self.discount ** torch.as_tensor(self.loss.path.noise_scale(t)).to(value)
        return own - self.weight * counts * value, dict(info) | {"value": value.detach().mean()}

    def regress(self, batch: Batch, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The critic's squared error `[B]`, on estimates as they are now."""
        with torch.no_grad():
            estimate, _ = self._estimate(batch, tick)
            worth = rewarded(self.reward, estimate.x)
        error = (self.critic(estimate.x).reshape(len(worth.value)) - worth.value) ** 2
        if worth.counts is not None:
            error = torch.where(worth.counts, error, 0.0)
        return error, {"reward": worth.value.mean()}

    def _estimate(self, batch: Batch, tick: Tick) -> tuple[Estimate, Tensor]:
        """At the level and the noise that the loss asks at too, and that level."""
        x, cond, known = self.loss.read(batch)
        draw = self.loss.proposal.draw(self.loss.path, x, tick.noise(first_leaf(x).shape[0]), tick.step)
        known = self.loss.known if known is None else known
        return denoising_error(self.loss.denoiser, x, draw, cond, known=known)[1], draw.t
