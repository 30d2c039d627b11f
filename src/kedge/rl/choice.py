"""Policies over a few choices: how long a plan is, which setting a sampler has at a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kedge.noise import Noise
from kedge.slots import CHOICE_SLOT
from kedge.train import OptimiserSpec, Part, Tick


class Choice(nn.Module):
    """`p(a | h) = softmax(net(h))_a`, for what was heard, h.

    net: `[..., F] -> [..., A]`, the logits of A choices
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, heard: Tensor) -> Tensor:
        """`[..., A]`: the log-probability of every choice."""
        return self.net(heard).log_softmax(-1)

    def log_prob(self, heard: Tensor, action: Tensor) -> Tensor:
        """`[...]`, of these choices."""
        return self(heard).gather(-1, action[..., None])[..., 0]

    @torch.no_grad()
    def draw(self, heard: Tensor, noise: Noise, step: int = 0) -> Tensor:
        """`[B]` choices for `[B, F]`: the first at which the probabilities so far exceed a uniform number."""
        p = self(heard).exp()
        u = noise.uniform((len(heard), 1), step, CHOICE_SLOT).to(p)
        return (p.cumsum(-1) <= u).sum(-1).clamp(max=p.shape[-1] - 1)

    @torch.no_grad()
    def best(self, heard: Tensor) -> Tensor:
        """`[...]`: the likeliest."""
        return self(heard).argmax(-1)

    def divergence(self, heard: Tensor, other: Choice) -> Tensor:
        """`[...]`: `KL(p | p_other)`, summed over all choices."""
        mine = self(heard)
        return (mine.exp() * (mine - other(heard))).sum(-1)


class ChoiceLoss(nn.Module):
    """`-log p(a | h)` of choices that somebody made, in batches of "heard" and "action".

    policy: what is trained
    """

    def __init__(self, policy: Choice) -> None:
        super().__init__()
        self.policy = policy

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps: this module, on this loss. Options are those of `kedge.train.Part`."""
        options.setdefault("compiles", (self.policy.net,))
        return Part(self, self, optimiser, **options)

    def forward(self, batch: Mapping[str, Tensor], tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The loss of each choice `[B]`, and how many would be chosen again."""
        logits, action = self.policy.net(batch["heard"]), batch["action"]
        return cross_entropy(logits, action, reduction="none"), {
            "same": (logits.detach().argmax(-1) == action).float().mean()
        }
